"""Attention transfer (arXiv 1612.03928, section 3.1): where in a map a net is active.

`mean over positions of (Q_s - Q_t)^2` with Q the vector of `sum over channels of |f|^p` over
positions, divided by its length. The references weigh the mean over all positions 1000, for images
of 32 x 32. Eq. 2 prints the length of the difference, not its square: both the authors' code and
this have the mean square.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Float

from fairkd_jax import geometry
from fairkd_jax.distill import pairs
from fairkd_jax.distill.base import LAST, Distiller, Pair
from fairkd_jax.distill.pairs import positions
from fairkd_jax.types import KD, Array, Spec


@struct.dataclass
class AT(Distiller):
    """By example, summed over pairs; the larger of two maps is averaged down first.

    Tokens are positions too.
    """

    reads = "inside"

    pairs: tuple[Pair, ...] = struct.field(pytree_node=False, default=((LAST, LAST),))
    power: Array = 2.0  # the paper's p

    def check(self, spec: Spec) -> None:
        """Raises ValueError without pairs or teacher, for positions that differ, and for p < 1.

        Raises UnknownName for an unknown intermediate.
        """
        if self.power < 1:
            raise ValueError(f"distill.at: power = {self.power}, expected a number from 1 on")
        pairs.check(self, spec, same="maps")

    def __call__(self, student, teachers, batch, params, now):
        """Mean over teachers by their shares, [B]."""

        def loss(met):
            met = met.pooled()
            ours, theirs = (where_active(x, self.power) for x in (met.ours, met.theirs))
            return met.mean((ours - theirs) ** 2)

        return KD(
            per_example=pairs.total(loss, self.pairs, student, teachers, batch),
            penalty=jnp.zeros(()),
        )


def where_active(x: Float[Array, "B *P D"], power: Array = 2.0) -> Float[jax.Array, "B M"]:
    """Where in a map a net is active, by example: Q, a vector over positions of length 1."""
    return geometry.unit(jnp.mean(jnp.abs(positions(x)) ** power, axis=2))
