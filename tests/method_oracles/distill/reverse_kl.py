"""The divergence from the student, at temperature 1 and at the case's, times T^2."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, make_now

from fairkd_jax.distill.logits import Logits
from fairkd_jax.types import Outputs


def adapt(case: Case):
    def loss(zs, t):
        method = Logits(temperature=t, divergence="reverse")
        kd = method(Outputs(zs), (Outputs(case.x["zt"]),), {}, {}, make_now())
        return jnp.mean(kd.per_example)

    run = jax.value_and_grad(loss)
    one, at_t = run(case.x["zs"], 1.0), run(case.x["zs"], case.hyper["T"])
    return {"loss_T1": one[0], "grad_T1_zs": one[1], "loss": at_t[0], "grad_zs": at_t[1]}
