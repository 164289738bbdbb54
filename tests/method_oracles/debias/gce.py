"""Generalised cross-entropy, by example and as a method."""

import jax
from method_oracles.cases import Case, reduce

from fairkd_jax import losses
from fairkd_jax.debias.gce import GCE


def adapt(case: Case):
    z, label, q = case.x["z"], case.x["y"], case.hyper["q"]
    batch = {"label": label, "real": case.ones(label)}
    loss, grad = jax.value_and_grad(lambda z: reduce(GCE(q=q), z, batch, {}, {})[0])(z)
    per_example = losses.generalized_cross_entropy(z, label, q)
    return {"per_example": per_example, "loss": loss, "grad_z": grad}
