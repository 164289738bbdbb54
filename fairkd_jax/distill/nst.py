"""Neuron selectivity transfer (arXiv 1707.01219): the patterns that channels respond to.

The squared maximum mean discrepancy between the student's channels and the teacher's, each a vector
over positions divided by its length, with the kernel `k(x, y) = (x . y)^2`. The reference
weighs its mean over the batch 50.
"""

import jax.numpy as jnp
from flax import struct

from fairkd_jax import geometry
from fairkd_jax.distill import pairs
from fairkd_jax.distill.base import LAST, Distiller, Pair
from fairkd_jax.distill.pairs import positions
from fairkd_jax.types import KD, Spec


@struct.dataclass
class NST(Distiller):
    """By example, summed over pairs; the larger of two maps is averaged down first.

    Tokens are positions too. The value includes the teacher's own term, which is constant.
    """

    reads = "inside"

    pairs: tuple[Pair, ...] = struct.field(pytree_node=False, default=((LAST, LAST),))

    def check(self, spec: Spec) -> None:
        """Raises ValueError without pairs or teacher, or for positions that differ in number.

        Raises UnknownName for an unknown intermediate.
        """
        pairs.check(self, spec, same="maps")

    def __call__(self, student, teachers, batch, params, now):
        """Mean over teachers by their shares, [B]."""

        def loss(met):
            met = met.pooled()
            return _discrepancy(*(_channels(x) for x in (met.ours, met.theirs)))

        return KD(
            per_example=pairs.total(loss, self.pairs, student, teachers, batch),
            penalty=jnp.zeros(()),
        )


def _channels(x):
    """Channels as unit vectors over positions, [B, K, P]."""
    return geometry.unit(jnp.swapaxes(positions(x), 1, 2))


def _discrepancy(ours, theirs):
    """Means of `(x . y)^2` over pairs of channels, within both less twice between them, [B]."""
    if ours.shape[2] <= min(ours.shape[1], theirs.shape[1]):
        # (x . y)^2 is the product of the matrices x x^T and y y^T: few positions, so they are small
        ours, theirs = (
            jnp.einsum("bkp,bkq->bpq", x, x, precision="highest") / x.shape[1]
            for x in (ours, theirs)
        )
        return jnp.sum((ours - theirs) ** 2, axis=(1, 2))

    def alike(x, y):
        products = jnp.einsum("bkp,bmp->bkm", x, y, precision="highest")
        return jnp.mean(products**2, axis=(1, 2))

    return alike(ours, ours) + alike(theirs, theirs) - 2 * alike(ours, theirs)
