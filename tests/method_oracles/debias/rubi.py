"""Logits masked by those of a bias model."""

import jax
from method_oracles.cases import Case, reduce

from fairkd_jax.debias.rubi import RUBi


def adapt(case: Case):
    said = {"bias": {"logits": case.x["bias_logits"]}}
    batch = {"label": case.x["y"], "tables": said, "real": case.ones(case.x["y"])}
    loss, grad = jax.value_and_grad(lambda z: reduce(RUBi(), z, batch, {}, {})[0])(case.x["z"])
    return {"loss": loss, "grad_z": grad}
