"""Features or maps."""

from method_oracles.cases import Case
from method_oracles.features import PAIR, value_and_grad

from fairkd_jax.distill.nst import NST


def adapt(case: Case):
    loss, grad = value_and_grad(NST(pairs=PAIR), case.x)
    return {"loss": loss, "grad_fs": grad}
