"""Weights from a bias model, and the weighted mean."""

import jax
from method_oracles.cases import Case, reduce, weights_of, with_bias

from fairkd_jax.debias.bias_reweight import BiasReweight


def adapt(case: Case):
    method, batch = BiasReweight(), with_bias(case, case.x["bias_logp"])
    (loss, (_, told)), grad = jax.value_and_grad(
        lambda z: reduce(method, z, batch, {}, {}), has_aux=True
    )(case.x["z"])
    weights = weights_of(method, case.x["z"], batch, {}, {}) * told["mean_weight"]
    return {"weights": weights, "loss": loss, "grad_z": grad}
