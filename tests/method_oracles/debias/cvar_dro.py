"""The worst case of given losses."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, make_now

from fairkd_jax.debias.cvar_dro import CVaRDRO, worst_case
from fairkd_jax.types import Terms


def adapt(case: Case):
    losses, alpha = case.x["losses"], case.hyper["alpha"]
    batch = {"real": case.ones(losses)}

    def loss(values):
        terms = Terms(task=values, distill=jnp.zeros_like(values), total=values)
        method, now = CVaRDRO(alpha=alpha), make_now()
        return method(terms, {}, batch, {}, now, jax.random.key(0))[0]

    value, grad = jax.value_and_grad(loss)(losses)
    return {"q": worst_case(losses, batch["real"], alpha), "loss": value, "grad_losses": grad}
