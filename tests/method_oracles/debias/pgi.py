"""Divergences between the mean answers of environments, by class."""

import jax.numpy as jnp
from method_oracles.cases import Case, reduce

from fairkd_jax.debias.pgi import PGI, divergences, log_mean_probs


def adapt(case: Case):
    z, label, attribute = case.x["z"], case.x["y"], case.x["group"]
    classes, environments = z.shape[1], 2  # of all cases: the formula that they tell is of two
    group, groups = label * environments + attribute, classes * environments
    batch = {"label": label, "attribute": attribute, "group": group, "real": case.ones(label)}
    method = PGI(weight=case.hyper["lambda"] * case.hyper["ramp"], ramp_share=0.0)
    counts = {"groups": jnp.ones(groups), "labels": jnp.ones(classes)}
    log_p, there = log_mean_probs(z, group, batch["real"], groups)
    shape = (classes, environments)
    return {
        "kl_per_class_paper": divergences(log_p.reshape(*shape, -1), there.reshape(shape)),
        "loss_paper": reduce(method, z, batch, {}, {}, **counts)[0],
    }
