"""The divergence, and its mix with cross-entropy."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, make_now

from fairkd_jax import losses
from fairkd_jax.distill.logits import Logits
from fairkd_jax.types import Outputs


def adapt(case: Case):
    x, alpha = case.x, case.hyper["alpha"]

    def distilled(zs):
        return Logits(temperature=case.hyper["T"])(
            Outputs(zs), (Outputs(x["zt"]),), {}, {}, make_now()
        ).per_example

    def ce(zs):
        return jnp.mean(losses.cross_entropy(zs, x["y"]))

    def total(zs):
        return (1 - alpha) * ce(zs) + alpha * jnp.mean(distilled(zs))

    zs = x["zs"]
    return {
        "per_example": distilled(zs),
        "loss": jnp.mean(distilled(zs)),
        "grad_zs": jax.grad(lambda z: jnp.mean(distilled(z)))(zs),
        "ce": ce(zs),
        "total": total(zs),
        "grad_total_zs": jax.grad(total)(zs),
    }
