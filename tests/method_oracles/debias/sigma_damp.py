"""Both kinds of margin control of one logit f, which is that of class 1 against 0."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, make_now, reduce

from fairkd_jax.debias.marg_ctrl import MargCtrl
from fairkd_jax.types import Outputs


def adapt(case: Case):
    f, label, hyper = case.x["f"], case.x["y"], case.hyper
    batch = {"label": label, "real": case.ones(label)}
    damp = MargCtrl(temperature=(hyper["T_0"], hyper["T_1"]), scale=hyper["scale"])
    marg_log = MargCtrl(
        kind="marg_log", weight=hyper["lambda"], target=(-hyper["gamma_0"], hyper["gamma_1"])
    )

    def logits(f):
        return jnp.stack([jnp.zeros_like(f), f], axis=1)

    found = {"per_example": damp.task({"student": Outputs(logits(f))}, batch, {}, make_now())}
    for suffix, method in (("", damp), ("_marg_log", marg_log)):
        loss, grad = jax.value_and_grad(
            lambda f, method=method: reduce(method, logits(f), batch, {}, {})[0]
        )(f)
        found |= {f"loss{suffix}": loss, f"grad_f{suffix}": grad}
    return found
