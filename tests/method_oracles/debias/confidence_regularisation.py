"""Targets scaled by a bias model, and the cross-entropy with them."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, reduce, with_bias

from fairkd_jax.debias.confidence_regularisation import ConfidenceRegularisation


def adapt(case: Case):
    x = case.x
    batch = with_bias(case, x["bias_logp"], erm=jnp.log(x["teacher_probs"]))
    method = ConfidenceRegularisation()
    loss, grad = jax.value_and_grad(lambda z: reduce(method, z, batch, {}, {})[0])(x["z"])
    return {"targets": method.targets(batch), "loss": loss, "grad_z": grad}
