"""The student's map is given as projected; what is left of the task loss is weighed too."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case
from method_oracles.features import met

from fairkd_jax.distill import projections
from fairkd_jax.distill.dett import DeTT
from fairkd_jax.losses import cross_entropy


def adapt(case: Case):
    x, method, alpha = case.x, DeTT(factor=case.hyper["lambda"]), case.hyper["kd_alpha"]
    wrong = jnp.argmax(x["id_logits"], axis=1) != x["y"]
    batch = {"tables": {"early_mistakes": {"mistake": wrong.astype(case.dtype)}}}

    def loss(fs):
        pair = met(fs, x["feat_t"])
        task = (1 - alpha) * cross_entropy(x["zs"], x["y"])
        return jnp.mean(
            method.weigh(alpha * projections.square_error(pair.ours, pair) + task, batch)
        )

    value, grad = jax.value_and_grad(loss)(x["feat_s"])
    weights = method.weigh(case.ones(wrong), batch)
    return {"wrong": wrong, "weights": weights, "loss": value, "grad_feat_s": grad}
