"""Weights that even out groups, and the loss they give."""

import jax
from method_oracles.cases import Case, make_spec, reduce, start

from fairkd_jax.debias.reweight import Reweight


def adapt(case: Case, method=Reweight()):
    x, attributes = case.x, case.hyper["num_attributes"]
    group = x["y"] * attributes + x["attr"]
    batch = {"label": x["y"], "group": group, "real": case.ones(x["y"])}
    counts = x["group_sizes"].astype(case.dtype)
    params, memory = start(method, make_spec(groups=counts, num_attributes=attributes), case.dtype)
    (loss, _), grad = jax.value_and_grad(
        lambda z: reduce(method, z, batch, params, memory), has_aux=True
    )(x["z"])
    found = {"weights": memory["weights"], "loss": loss, "grad_z": grad}
    return found | {f"{k}_code": v for k, v in found.items()}
