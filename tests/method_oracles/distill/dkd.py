"""Both terms, each times T^2, and their sum."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, make_now

from fairkd_jax.distill.dkd import DKD
from fairkd_jax.types import Outputs


def adapt(case: Case):
    x, hyper = case.x, case.hyper
    method = DKD(alpha=hyper["alpha"], beta=hyper["beta"], temperature=hyper["T"])

    def loss(zs):
        kd = method(Outputs(zs), (Outputs(x["zt"]),), {"label": x["y"]}, {}, make_now())
        return jnp.mean(kd.per_example)

    tckd, nckd = method.terms(x["zt"], x["zs"], x["y"])
    value, slope = jax.value_and_grad(loss)(x["zs"])
    return {"tckd": jnp.mean(tckd), "nckd": jnp.mean(nckd), "loss": value, "grad_zs": slope}
