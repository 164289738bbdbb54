"""Mixed inputs through a linear net."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, reduce

from fairkd_jax.debias.mixup import Mixup
from fairkd_jax.models.tape import Mix


def adapt(case: Case):
    x = case.x
    mix = Mix(x["perm"], jnp.full(len(x["y"]), case.hyper["lambda"], case.dtype))
    partner = x["y"][x["perm"]]
    batch = {"label": x["y"], "partner_label": partner, "label_weight": mix.weight}
    batch["real"] = case.ones(partner)
    (loss, _), grad = jax.value_and_grad(
        lambda v: reduce(Mixup(), mix(v) @ x["W"].T + x["b"], batch, {}, {}), has_aux=True
    )(x["x"])
    return {"mixed_x": mix(x["x"]), "y_b": partner, "loss": loss, "grad_x": grad}
