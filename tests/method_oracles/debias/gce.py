"""Generalised cross-entropy, by example."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case

from fairkd_jax import losses


def adapt(case: Case):
    def per_example(z):
        return losses.generalized_cross_entropy(z, case.x["y"], case.hyper["q"])

    loss, grad = jax.value_and_grad(lambda z: jnp.mean(per_example(z)))(case.x["z"])
    return {"per_example": per_example(case.x["z"]), "loss": loss, "grad_z": grad}
