"""Relational distillation (arXiv 1904.05068, eq. 4-9 as recalled): distances and angles in a batch.

`distance H(d_s / mean d_s, d_t / mean d_t) + angle H(cos_s, cos_t)`, H the Huber loss with delta 1,
over all pairs, and over all triplets at their vertex. Weights are the reference's, 25 and 50.
"""

import jax.numpy as jnp
import optax
from flax import struct

from fairkd_jax import geometry
from fairkd_jax.distill import pairs
from fairkd_jax.distill.base import FEATURES, Distiller, Pair
from fairkd_jax.types import KD, Array, Spec


@struct.dataclass
class RKD(Distiller):
    """Summed over pairs; intermediates are flattened, and may be of any two sizes.

    Means are over B^2 pairs and B^3 triplets, degenerate ones included; the mean distance is over
    distances above 0. By example: its distances to all others, and the angles at it. Angles take
    memory for B^2 differences of features and B^3 cosines.
    """

    reads = "inside"
    couples_examples = True

    pairs: tuple[Pair, ...] = struct.field(pytree_node=False, default=FEATURES)
    distance: Array = 25.0
    angle: Array = 50.0

    def check(self, spec: Spec) -> None:
        """Raises ValueError without pairs or teacher, UnknownName for an unknown intermediate."""
        pairs.check(self, spec, same="nothing")

    def __call__(self, student, teachers, batch, params, now):
        """Both terms, mean over teachers by their shares, [B]."""

        def loss(met):
            real, both = met.real, met.flat()
            ours, theirs = (_relative_distances(x, real) for x in both)
            distance = geometry.row_means(optax.losses.huber_loss(ours, theirs), real)
            ours, theirs = (_cosines(x) for x in both)
            pairs_of = optax.losses.huber_loss(ours, theirs) * real
            angle = geometry.row_means(
                jnp.sum(pairs_of, axis=2) / jnp.maximum(jnp.sum(real), 1.0), real
            )
            return self.distance * distance + self.angle * angle

        return KD(
            per_example=pairs.total(loss, self.pairs, student, teachers, batch),
            penalty=jnp.zeros(()),
        )


def _relative_distances(x: Array, real: Array) -> Array:
    """Distances over their mean, [B, B]."""
    apart = geometry.distances(x, x)
    counted = (apart > 0) * real * real[:, None]
    mean = jnp.sum(apart * counted) / jnp.maximum(jnp.sum(counted), 1.0)
    return apart / jnp.where(mean > 0, mean, 1.0)


def _cosines(x: Array) -> Array:
    """Of the angle between j and k seen from i, [B, B, B] in the order i, j, k; 0 where none is."""
    rays = geometry.unit(x[None] - x[:, None])
    return jnp.einsum("ijd,ikd->ijk", rays, rays, precision="highest")
