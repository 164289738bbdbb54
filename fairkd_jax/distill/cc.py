"""Correlation congruence (arXiv 1904.01802), as the authors' code has it.

`sum_k |D_ik| |D_(i+1)k|` of D = f_s - f_t and neighbours i, i + 1 in the batch, as a mean over
neighbours: that code, in RepDistiller, is not the paper's congruence of kernel matrices, and hangs
on the order in the batch; but it is what results were made with. The reference weighs it 0.02.
"""

import jax.numpy as jnp
from flax import struct

from fairkd_jax.distill import pairs, projections
from fairkd_jax.distill.base import FEATURES, Distiller, Pair
from fairkd_jax.types import KD, Spec


@struct.dataclass
class CC(Distiller):
    """A penalty, for what couples two examples is a loss of neither; summed over pairs.

    Where widths differ a dense map is learned from the student's to the teacher's; the reference
    learns one of both to 128 units, which could shrink the teacher's to nothing.
    """

    reads = "inside"
    couples_examples = True

    pairs: tuple[Pair, ...] = struct.field(pytree_node=False, default=FEATURES)

    def check(self, spec: Spec) -> None:
        """Raises ValueError without pairs or teacher, or for positions that differ in number.

        Raises UnknownName for an unknown intermediate.
        """
        pairs.check(self, spec)

    def init(self, spec, key):
        """Own parameters: a dense map for each pair and teacher of other widths."""
        return projections.aligning(self.pairs, spec, key), {}

    def __call__(self, student, teachers, batch, params, now):
        """The mean over neighbours, padding between them left out; mean over teachers, []."""

        def loss(met):
            ours, theirs = projections.aligned(met, params).flat()
            first = jnp.argsort(met.real <= 0, stable=True)  # rows of padding last
            apart, real = jnp.abs(ours - theirs)[first], met.real[first]
            both = real[:-1] * real[1:]
            products = jnp.sum(apart[:-1] * apart[1:], axis=1)
            return jnp.sum(products * both) / jnp.maximum(jnp.sum(both), 1.0)

        penalty = pairs.total(loss, self.pairs, student, teachers, batch)
        return KD(per_example=jnp.zeros(len(student.logits)), penalty=penalty)
