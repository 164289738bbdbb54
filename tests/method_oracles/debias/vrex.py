"""Risks by environment, and their variance."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, environments, reduce

from fairkd_jax import losses
from fairkd_jax.debias.vrex import VREx


def adapt(case: Case):
    z, batch, counts = environments(case, "z")
    method = VREx(weight=case.hyper["lambda"], anneal_steps=0)

    def loss(z):
        return reduce(method, jnp.concatenate(z), batch, {}, {}, **counts)

    (value, (_, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(z)
    ce = losses.cross_entropy(jnp.concatenate(z), batch["label"])
    risks, _ = losses.group_means(ce, batch["attribute"], batch["real"], len(z))
    return {"risks": risks, "penalty": metrics["penalty"], "loss": value} | {
        f"grad_z_env{e}": g for e, g in enumerate(grads)
    }
