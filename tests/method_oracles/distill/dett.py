"""The student's map is given as projected; what is left of the task loss is weighed by jtt."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, reduce
from method_oracles.features import met

from fairkd_jax.debias.jtt import JTT
from fairkd_jax.distill import projections
from fairkd_jax.distill.dett import DeTT


def adapt(case: Case):
    x, factor, alpha = case.x, case.hyper["lambda"], case.hyper["kd_alpha"]
    wrong = jnp.argmax(x["id_logits"], axis=1) != x["y"]
    table = {"mistake": wrong.astype(case.dtype)}
    batch = {"label": x["y"], "real": case.ones(wrong)}
    batch["tables"] = {"mistakes": table, "early_mistakes": table}
    task, _ = reduce(JTT(factor=factor), x["zs"], batch, {}, {})

    def loss(fs):
        pair = met(fs, x["feat_t"])
        kd = DeTT(factor=factor).weigh(projections.square_error(pair.ours, pair), batch)
        return alpha * jnp.mean(kd) + (1 - alpha) * task

    value, grad = jax.value_and_grad(loss)(x["feat_s"])
    weights = DeTT(factor=factor).weigh(case.ones(wrong), batch)
    return {"wrong": wrong, "weights": weights, "loss": value, "grad_feat_s": grad}
