"""Both correlations, at temperature 1; their sum there and at the case's temperature."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, make_now

from fairkd_jax.distill.dist import DIST
from fairkd_jax.types import Outputs


def adapt(case: Case):
    x, hyper = case.x, case.hyper
    batch = {"real": case.ones(x["zs"])}

    def method(t):
        return DIST(beta=hyper["beta"], gamma=hyper["gamma"], temperature=t)

    def loss(zs, t):
        kd = method(t)(Outputs(zs), (Outputs(x["zt"]),), batch, {}, make_now())
        return jnp.mean(kd.per_example) + kd.penalty

    run = jax.value_and_grad(loss)
    one, at_tau = run(x["zs"], 1.0), run(x["zs"], hyper["tau"])
    inter, intra = method(1.0).terms(x["zt"], x["zs"], batch)
    found = {"loss": one[0], "grad_zs": one[1], "loss_tau": at_tau[0], "grad_tau_zs": at_tau[1]}
    return found | {"inter": jnp.mean(inter), "intra": intra}
