"""Distillation of intermediates through learned regressors (FitNets, arXiv 1412.6550, eq. 2-3).

For each named pair, a dense map takes the student's last axis to the teacher's (a 1x1 convolution
on feature maps); the loss is the mean squared error. The references weigh it 100.
"""

import jax.numpy as jnp
from flax import struct

from fairkd_jax.distill import pairs, projections
from fairkd_jax.distill.base import FEATURES, Distiller, Pair
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import KD, Spec

REGRESSORS = ("dense", "normalised")


@struct.dataclass
class Hidden(Distiller):
    """By example, the mean over pairs and teachers. Layers meet by name, not by position in a list.

    Unlike FitNets this is no stage before distillation but a term beside it. A regressor is "dense"
    or, as in the references for maps, "normalised": a convolution, batch normalisation and ReLU.
    It may halve a map, by 3x3 with stride 2; of other sizes the larger map is averaged down, where
    the references convolve without padding or transposed.
    """

    reads = "inside"

    pairs: tuple[Pair, ...] = struct.field(pytree_node=False, default=FEATURES)
    regressor: str = struct.field(pytree_node=False, default="dense")

    @property
    def couples_examples(self) -> bool:
        """Does it, by the normalisation?"""
        return self.regressor == "normalised"

    def check(self, spec: Spec) -> None:
        """Raises ValueError without pairs or teacher, or for positions that differ in number.

        Raises UnknownName for an intermediate that was not saved, or another regressor.
        """
        if self.regressor not in REGRESSORS:
            raise UnknownName(self.regressor, "distill.hidden.regressor", REGRESSORS)
        pairs.check(self, spec, same="rank" if self.couples_examples else "positions")

    def init(self, spec, key):
        """Own parameters: one regressor for each pair and teacher."""

        def make(key, ours, theirs):
            if not self.couples_examples:
                return projections.dense(key, ours[-1], theirs[-1])
            size = 3 if _halves(ours, theirs) else 1
            return projections.normalised(key, ours[-1], theirs[-1], size)

        return projections.for_each(self.pairs, spec, key, make), {}

    def __call__(self, student, teachers, batch, params, now):
        """Mean squared error over features and positions that are real in both nets, [B]."""

        def loss(met):
            return projections.square_error(*self.regress(params[met.name], met))

        losses = pairs.total(loss, self.pairs, student, teachers, batch)
        return KD(per_example=losses / len(self.pairs), penalty=jnp.zeros(()))

    def regress(self, own, met):
        """(the student's intermediate as the teacher's is to be, the pair that it is of)."""
        if not self.couples_examples:
            return projections.apply(own, met.ours), met
        if _halves(met.ours.shape, met.theirs.shape):
            return projections.apply_normalised(own, met.ours, met, stride=2), met
        met = met.pooled()
        return projections.apply_normalised(own, met.ours, met), met


def _halves(ours: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
    return len(ours) == 4 and all(n == 2 * m for n, m in zip(ours[1:3], theirs[1:3]))
