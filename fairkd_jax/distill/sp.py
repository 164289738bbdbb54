"""Similarity-preserving distillation (arXiv 1907.09682): which examples are alike.

`|rownorm(F_s F_s^T) - rownorm(F_t F_t^T)|^2 / B^2` over the batch, with F a row an example. The
references weigh it 3000, for images of 32 x 32.
"""

import jax.numpy as jnp
from flax import struct

from fairkd_jax import geometry
from fairkd_jax.distill import pairs
from fairkd_jax.distill.base import FEATURES, Distiller, Pair
from fairkd_jax.types import KD, Spec


@struct.dataclass
class SP(Distiller):
    """Summed over pairs; intermediates are flattened, and may be of any two sizes.

    By example: its row of the difference, so that a debiasing method can weigh the examples whose
    neighbours it is about.
    """

    reads = "inside"
    couples_examples = True

    pairs: tuple[Pair, ...] = struct.field(pytree_node=False, default=FEATURES)

    def check(self, spec: Spec) -> None:
        """Raises ValueError without pairs or teacher, UnknownName for an unknown intermediate."""
        pairs.check(self, spec, same="nothing")

    def __call__(self, student, teachers, batch, params, now):
        """`sum_j (G_s - G_t)_ij^2 / B`, mean over teachers by their shares, [B]."""

        def loss(met):
            ours, theirs = (geometry.unit(geometry.products(x, x)) for x in met.flat())
            return geometry.row_means((ours - theirs) ** 2, met.real)

        return KD(
            per_example=pairs.total(loss, self.pairs, student, teachers, batch),
            penalty=jnp.zeros(()),
        )
