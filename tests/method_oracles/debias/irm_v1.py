"""The penalty by environment, and on whole batches."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, environments, make_spec, reduce, start

from fairkd_jax import losses
from fairkd_jax.debias.irm import IRM, scale_gradient


def adapt(case: Case):
    count = case.hyper["envs"]
    z, batch, counts = environments(case, "z")
    method = IRM(weight=case.hyper["penalty_weight"], anneal_steps=0)
    params, memory = start(method, make_spec(num_attributes=count), case.dtype)

    def loss(z):
        return reduce(method, jnp.concatenate(z), batch, params, memory, **counts)

    (value, (after, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(z)
    slopes = scale_gradient(jnp.concatenate(z), batch["label"])
    whole, _ = losses.group_means(slopes, batch["attribute"], batch["real"], count)
    return {
        "nll": value - method.weight * metrics["penalty"],
        "penalty_per_env": after["penalties"],
        "penalty": metrics["penalty"],
        "loss": value,
        "penalty_full_batch": jnp.mean(whole**2),
    } | {f"grad_z_env{e}": g for e, g in enumerate(grads)}
