"""Margins by class, and the loss behind them."""

import jax
from method_oracles.cases import Case, reduce

from fairkd_jax.debias.ldam import LDAM, margins


def adapt(case: Case):
    x, label = case.x, case.x["y"]
    method = LDAM(max_m=case.hyper["max_m"], scale=case.hyper["scale"])
    batch, counts = {"label": label, "real": case.ones(label)}, x["class_counts"].astype(case.dtype)
    loss, grad = jax.value_and_grad(lambda z: reduce(method, z, batch, {}, {}, labels=counts)[0])(
        x["z"]
    )
    return {"margins": margins(counts, method.max_m), "loss": loss, "grad_z": grad}
