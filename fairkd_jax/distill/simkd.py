"""Distillation for a reused teacher classifier (arXiv 2203.14001, eq. 3): features alone.

`|p(f_s) - f_t|^2`, a mean over positions and channels, with a projector p of three convolutions
(1, 3, 1), each normalised over the batch and rectified; then the teacher's head, frozen, reads
p(f_s). The reference has neither a task loss nor one of logits beside it: `mix.task_weight` = 0.

What is here is that loss. The net that a study keeps and scores is the student with its own head,
which learns from the task loss alone; student, projector and teacher's head as one net are not.
"""

import jax.numpy as jnp
from flax import struct

from fairkd_jax.distill import pairs, projections
from fairkd_jax.distill.base import FEATURES, Distiller, Pair
from fairkd_jax.types import KD, Spec


@struct.dataclass
class SimKD(Distiller):
    """By example, summed over pairs; the larger of two maps is averaged down first.

    The default is what heads read, a vector, of which all three convolutions are dense maps; the
    paper's is the last map: ["last", "last"]. Behind the last ReLU nothing is negative, as in the
    features of a ResNet; for those of other families `rectified` = False leaves it out.
    """

    reads = "inside"
    couples_examples = True  # by the normalisation of the projector

    pairs: tuple[Pair, ...] = struct.field(pytree_node=False, default=FEATURES)
    factor: int = struct.field(pytree_node=False, default=2)  # teacher's width over that inside p
    rectified: bool = struct.field(pytree_node=False, default=True)

    def check(self, spec: Spec) -> None:
        """Raises ValueError without pairs or teacher, or for positions that differ in number.

        Raises UnknownName for an unknown intermediate, ValueError for a factor below 1.
        """
        if self.factor < 1:
            raise ValueError(f"distill.simkd: factor = {self.factor}, expected 1 or more")
        pairs.check(self, spec, same="rank")

    def init(self, spec, key):
        """Own parameters: a projector for each pair and teacher."""
        return projections.projectors(self.pairs, spec, key, self.factor), {}

    def __call__(self, student, teachers, batch, params, now):
        """Mean squared error, mean over teachers by their shares, [B]."""

        def loss(met):
            met = met.pooled()
            projected = projections.projected(params[met.name], met, self.rectified)
            return projections.square_error(projected, met)

        return KD(
            per_example=pairs.total(loss, self.pairs, student, teachers, batch),
            penalty=jnp.zeros(()),
        )
