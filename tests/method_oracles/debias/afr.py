"""Weights of the first head, and some steps from it."""

import jax.numpy as jnp
from method_oracles.cases import Case

from fairkd_jax.debias.infer.weighted_head import descend, loss, weights


def adapt(case: Case):
    x, hyper = case.x, case.hyper
    start = {"head/kernel": x["W0"].T, "head/bias": x["b0"]}
    features, label = x["embeddings"], x["y"]
    logits = features @ start["head/kernel"] + start["head/bias"]
    number = lambda name: jnp.asarray(hyper[name], case.dtype)  # noqa: E731
    raw, normalised = weights(logits, label, number("gamma"), rebalance=False)
    _, weight = weights(logits, label, number("gamma"), rebalance=True)
    found = {"weights_raw": raw, "weights_normalised": normalised, "weights_rebalanced": weight}
    for k in range(1, hyper["steps"] + 1):
        given = features, label, weight
        rest = number("reg_coeff"), number("clip_norm")
        before = descend(start, *given, number("lr"), *rest, steps=k - 1)
        head = descend(start, *given, number("lr"), *rest, steps=k)
        found[f"loss_{k}"] = loss(before, start, *given, number("reg_coeff"))
        found |= {f"W_after_{k}": head["head/kernel"].T, f"b_after_{k}": head["head/bias"]}
    return found
