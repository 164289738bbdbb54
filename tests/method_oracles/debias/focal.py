"""The mean of the focal loss."""

import jax
from method_oracles.cases import Case, reduce

from fairkd_jax.debias.focal import Focal


def adapt(case: Case):
    label = case.x["y"]
    batch, method = {"label": label, "real": case.ones(label)}, Focal(gamma=case.hyper["gamma"])
    loss, grad = jax.value_and_grad(lambda z: reduce(method, z, batch, {}, {})[0])(case.x["z"])
    return {"loss": loss, "grad_z": grad}
