"""Reweighting: rare groups (or labels) weigh more, by a power of how rare they are.

`w_k = n_k^-power / sum_j n_j^-power * K`, loss `mean(w_k l)`: power 1 is inverse-frequency
weighting, 1/2 its square root (SubpopBench, arXiv 2302.12254, ReWeight and SqrtReWeight).
"""

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax.debias.base import Debiaser, require_unit
from fairkd_jax.losses import masked_mean
from fairkd_jax.types import Array, Spec

AnyArray = JaxArray | np.ndarray


def normalised(weights: Float[AnyArray, "K"]) -> Float[JaxArray, "K"]:
    """The weights, scaled to sum to K."""
    return weights / jnp.sum(weights) * weights.shape[0]


def balancing_weights(counts: Float[AnyArray, "K"], power: Array) -> Float[JaxArray, "K"]:
    """Weights proportional to `counts^-power` that sum to K; 0 where nothing was counted."""
    rarity = jnp.where(counts > 0, jnp.maximum(counts, 1.0) ** -power, 0.0)
    return normalised(rarity)


@struct.dataclass
class Reweight(Debiaser):
    """The plain mean of weighted losses; only `by="group"` reads attributes."""

    search = {"power": (0.5, 1.0)}

    power: Array = 1.0
    by: str = struct.field(pytree_node=False, default="group")  # group | label

    @property
    def sees_attributes(self) -> bool:
        """Whether weights go by group."""
        return self.by == "group"

    def check(self, spec: Spec) -> None:
        """Raises UnknownName for `by`."""
        require_unit(self.by, "reweight")

    def init(self, spec, key):
        """Memory: the weights, by group or by label."""
        counts = spec.group_counts if self.by == "group" else spec.label_counts
        return {}, {"weights": balancing_weights(counts, self.power)}

    def __call__(self, terms, outputs, batch, params, now, key):
        """`mean(w l)` over real examples: not divided by the sum of the weights."""
        weights = now.memory["weights"][batch[self.by]]
        return masked_mean(weights * terms.total, batch["real"]), now.memory, {}
