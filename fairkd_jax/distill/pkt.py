"""Probabilistic knowledge transfer (arXiv 1803.10837): how likely examples are neighbours.

Cosines (c + 1) / 2 of an example with all others, itself included, divided by their sum are its
distribution p; the loss is `sum_j p_t log(p_t / p_s)`. The reference weighs its mean 30000.
"""

import jax.numpy as jnp
from flax import struct

from fairkd_jax import geometry
from fairkd_jax.distill import pairs
from fairkd_jax.distill.base import FEATURES, Distiller, Pair
from fairkd_jax.types import KD, Spec

LEAST = 1e-7  # added to lengths and to probabilities, as in the reference


@struct.dataclass
class PKT(Distiller):
    """Summed over pairs; intermediates are flattened, and may be of any two sizes.

    By example: its divergence over B, for the reference takes the mean over all B^2 pairs.
    """

    reads = "inside"
    couples_examples = True

    pairs: tuple[Pair, ...] = struct.field(pytree_node=False, default=FEATURES)

    def check(self, spec: Spec) -> None:
        """Raises ValueError without pairs or teacher, UnknownName for an unknown intermediate."""
        pairs.check(self, spec, same="nothing")

    def __call__(self, student, teachers, batch, params, now):
        """The mean over j of `p_t log(p_t / p_s)`, mean over teachers by their shares, [B]."""

        def neighbours(x, real):
            x = x / (geometry.length(x) + LEAST)
            near = (geometry.products(x, x) + 1) / 2 * real
            return near / jnp.maximum(jnp.sum(near, axis=1, keepdims=True), LEAST)

        def loss(met):
            ours, theirs = (neighbours(x, met.real) for x in met.flat())
            # Less p_t - p_s, which sums to 0: what is left of each term is small where both are
            # near, and nothing cancels in the sum.
            gap = theirs - ours
            return geometry.row_means(theirs * jnp.log1p(gap / (ours + LEAST)) - gap, met.real)

        return KD(
            per_example=pairs.total(loss, self.pairs, student, teachers, batch),
            penalty=jnp.zeros(()),
        )
