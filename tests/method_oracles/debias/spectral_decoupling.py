"""The penalty as published codes have it, beside cross-entropy."""

import jax
from method_oracles.cases import Case, reduce

from fairkd_jax.debias.spectral_decoupling import SpectralDecoupling


def adapt(case: Case):
    label = case.x["y"]
    batch = {"label": label, "real": case.ones(label)}
    method = SpectralDecoupling(weight=case.hyper["lambda"])
    (loss, (_, metrics)), grad = jax.value_and_grad(
        lambda z: reduce(method, z, batch, {}, {}), has_aux=True
    )(case.x["z"])
    return {"penalty_code": metrics["penalty"], "loss_code": loss, "grad_z_code": grad}
