"""CORAL (arXiv 1607.01719): features of equal mean and covariance in all environments (attributes).

`mean_e R_e + weight * mean over pairs (mean (mu_i - mu_j)^2 + mean (C_i - C_j)^2)`, means over
entries, `C` with n - 1. Trap: this is DomainBed's form, and weights are told for it; the paper has
no term of means, and divides the sum by 4 D^2.
"""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax.debias import environments
from fairkd_jax.debias.base import Debiaser, require_attributes
from fairkd_jax.types import Array, Spec


def moments(
    x: Float[JaxArray, "B D"], member: Float[JaxArray, "B E"]
) -> tuple[Float[JaxArray, "E D"], Float[JaxArray, "E D D"]]:
    """Means and covariances by environment; rows of none must be finite."""
    rows = jnp.sum(member, axis=0)
    mean = jnp.einsum("be,bi->ei", member, x, precision="highest")
    mean = mean / jnp.maximum(rows, 1.0)[:, None]
    away = x - jnp.einsum("be,ei->bi", member, mean, precision="highest")
    square = jnp.einsum("be,bi,bj->eij", member, away, away, precision="highest")
    return mean, square / jnp.maximum(rows - 1, 1.0)[:, None, None]


@struct.dataclass
class CORAL(Debiaser):
    """Features are what the head reads. An environment needs two examples in a batch to count."""

    sees_attributes = True
    couples_examples = True
    search = {"weight": (0.1, 1.0, 10.0)}

    weight: Array = 1.0

    def check(self, spec: Spec) -> None:
        """Raises ValueError for training examples of one attribute alone."""
        require_attributes(spec, "coral")

    def __call__(self, terms, outputs, batch, params, now, key):
        """The mean risk and the penalty, which is 0 with one environment."""
        _, _, mean = environments.risks(terms.total, batch, now)
        member = environments.members(batch, now)
        x = jnp.where(batch["real"][:, None] > 0, outputs["student"].features, 0.0)
        there = (jnp.sum(member, axis=0) > 1).astype(x.dtype)
        gaps = [jnp.mean(environments.variance(v, there)) for v in moments(x, member)]
        penalty = environments.mean_over_pairs(sum(gaps), there)
        return mean + self.weight * penalty, now.memory, {"penalty": penalty}
