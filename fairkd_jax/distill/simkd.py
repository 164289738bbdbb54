"""Distillation for a reused teacher classifier (arXiv 2203.14001): features alone.

`|p(f_s) - f_t|^2`, a mean over positions and channels, with a learned projector p; the net that
comes of it is the student, then p, then the teacher's head as it is. The reference has neither a
task loss nor one of logits beside it: `mix.task_weight` = 0.
"""

import jax.numpy as jnp
from flax import struct

from fairkd_jax.distill import pairs, projections
from fairkd_jax.distill.base import FEATURES, Distiller, Pair
from fairkd_jax.types import KD, Spec


@struct.dataclass
class SimKD(Distiller):
    """By example, summed over pairs; the larger of two maps is averaged down first.

    A projector is "dense", a map from what the student's head reads to what the teacher's does: it
    and the teacher's head are one dense layer, which takes the place of the student's head whenever
    the net is validated or kept. Or it is the reference's, "convolutions" (1, 3, 1, each
    normalised over the batch and rectified; on vectors and tokens all 1x1), also of the last map,
    ["last", "last"]: then the loss alone is here, and the net keeps its own head, which learns from
    the task loss.
    """

    reads = "inside"

    pairs: tuple[Pair, ...] = struct.field(pytree_node=False, default=FEATURES)
    projector: str = struct.field(pytree_node=False, default="dense")
    factor: int = struct.field(pytree_node=False, default=2)  # teacher's width over that inside p

    @property
    def couples_examples(self) -> bool:
        """Does it, by the normalisation of the projector?"""
        return self.projector != "dense"

    def check(self, spec: Spec) -> None:
        """Raises ValueError without pairs or teacher, or for positions that differ in number.

        Raises UnknownName for an unknown intermediate or projector, ValueError for a factor below 1
        or for a dense projector of anything but features.
        """
        projections.check_projector(self, spec, self.projector, self.factor)

    def init(self, spec, key):
        """Own parameters: a projector for each pair and teacher."""
        return projections.projectors(self.pairs, spec, key, self.projector, self.factor), {}

    def __call__(self, student, teachers, batch, params, now):
        """Mean squared error, mean over teachers by their shares, [B]."""

        def loss(met):
            return projections.square_error(*projections.projected(params[met.name], met))

        return KD(
            per_example=pairs.total(loss, self.pairs, student, teachers, batch),
            penalty=jnp.zeros(()),
        )

    def finished(self, student, teachers, shares, params):
        """The student with the teacher's head behind a dense projector."""
        own = [params[pairs.name(pair, k)] for pair in self.pairs for k in range(len(teachers))]
        return projections.with_reused_head(student, teachers, shares, own)
