"""The penalty of features, and of each pair of environments alone."""

import itertools

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, environments, reduce

from fairkd_jax.debias.coral import CORAL


def adapt(case: Case, method=CORAL()):
    parts, batch, counts = environments(case, "x")
    attribute = batch["attribute"]
    z = jnp.zeros((len(attribute), 2), case.dtype)

    def penalty(parts, real=batch["real"]):
        x = jnp.concatenate(parts)
        _, (_, metrics) = reduce(method, z, batch | {"real": real}, {}, {}, x, **counts)
        return metrics["penalty"]

    pairs = itertools.combinations(range(len(parts)), 2)
    of_pairs = [((attribute == i) | (attribute == j)).astype(case.dtype) for i, j in pairs]
    value, grads = jax.value_and_grad(penalty)(parts)
    return {
        "pairwise": jnp.stack([penalty(parts, real) for real in of_pairs]),
        "penalty": value,
    } | {f"grad_x_env{e}": g for e, g in enumerate(grads)}
