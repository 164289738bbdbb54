"""Environments from given logits; of one logit f, those of (0, f)."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case

from fairkd_jax.debias.infer.environments import penalties, split
from fairkd_jax.debias.irm import scale_gradient


def adapt(case: Case):
    x, hyper = case.x, case.hyper
    logits = x["z"] if "z" in x else jnp.stack([jnp.zeros_like(x["f"]), x["f"]], axis=1)
    slopes = scale_gradient(logits, x["y"])
    start = x["w_init"]
    weights = split(start, slopes, jnp.asarray(hyper["lr"], case.dtype), hyper["steps"])
    return {
        "scale_gradients": slopes,
        "objective_initial": penalties(start, slopes),
        "neg_objective_grad_w": -jax.grad(penalties)(start, slopes),
        "w_final": weights,
        "objective_final": penalties(weights, slopes),
        "env": weights > 0,
    }
