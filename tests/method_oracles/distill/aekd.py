"""Losses by teacher, the weights, and the weighted loss, which authors' weights move a little."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, make_now

from fairkd_jax.distill.ae_kd import AEKD
from fairkd_jax.distill.logits import Logits
from fairkd_jax.types import Outputs


def adapt(case: Case):
    x, hyper = case.x, case.hyper
    batch, t = {"real": case.ones(x["zs"])}, hyper["T"]
    method = AEKD(temperature=t, cap=hyper["tolerance_C"], normalise=hyper["is_norm"])
    teachers = tuple(map(Outputs, x["zt"]))

    def loss(zs):
        return jnp.mean(method(Outputs(zs), teachers, batch, {}, make_now()).per_example)

    value, slope = jax.value_and_grad(loss)(x["zs"])
    single = [Logits(temperature=t)(Outputs(x["zs"]), (k,), {}, {}, make_now()) for k in teachers]
    return {
        "losses": jnp.stack([jnp.mean(kd.per_example) for kd in single]),
        "weights_exact_qp": method.weights(x["zs"], list(x["zt"]), batch),
        "loss": value,
        "grad_zs": slope,
    }
