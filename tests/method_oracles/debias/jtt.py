"""Weights from the mistakes of a first net."""

import jax.numpy as jnp
from method_oracles.cases import Case, reduce, weights_of

from fairkd_jax.debias.jtt import JTT


def adapt(case: Case):
    x = case.x
    mistake = jnp.argmax(x["z_stage1"], axis=1) != x["y"]
    batch = {
        "label": x["y"],
        "tables": {"mistakes": {"mistake": mistake}},
        "real": case.ones(mistake),
    }
    method = JTT(factor=case.hyper["lambda"])
    weights = weights_of(method, x["z_stage2"], batch, {}, {})
    loss, _ = reduce(method, x["z_stage2"], batch, {}, {})
    return {
        "error_set": mistake,
        "weights_paper": weights,
        "loss_sum_paper": loss * len(mistake),
        "sampling_prob_paper": weights / jnp.sum(weights),
    }
