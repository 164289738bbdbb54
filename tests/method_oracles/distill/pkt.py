"""Features or maps."""

from method_oracles.cases import Case
from method_oracles.features import PAIR, value_and_grad

from fairkd_jax.distill.pkt import PKT


def adapt(case: Case):
    loss, grad = value_and_grad(PKT(pairs=PAIR), case.x)
    return {"loss": loss, "grad_fs": grad}
