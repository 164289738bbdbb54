"""DeTT (arXiv 2302.11187): SimKD, in which a student's early mistakes weigh more.

`w_i |p(f_s) - f_t|^2` with w = `factor` where an early ERM net of the student's kind is wrong, else
1, and the projector p of `simkd`; what is left of the task loss is weighed by w too. The method is
recalled and its code a third party's, in which the projector stays as drawn at random, by an
oversight: here it learns.
"""

import jax.numpy as jnp
import numpy as np
from flax import struct

from fairkd_jax.config import Stage
from fairkd_jax.distill import pairs, projections
from fairkd_jax.distill.base import FEATURES, Distiller, Pair
from fairkd_jax.types import KD, Array, Spec


@struct.dataclass
class DeTT(Distiller):
    """By example; options, and what becomes of the teacher's head, are those of `simkd`.

    Under `debias` "jtt" mistakes would be weighed twice: there say `simkd`, with scope "total" the
    same.
    """

    reads = "inside"
    tables = ("early_mistakes",)

    pairs: tuple[Pair, ...] = struct.field(pytree_node=False, default=FEATURES)
    factor: Array = 50.0  # weight of a mistake (lambda)
    identify_share: Array = 0.1  # of the steps: how long the early net trains
    projector: str = struct.field(pytree_node=False, default="dense")
    narrowing: int = struct.field(pytree_node=False, default=2)  # `factor` of simkd

    @property
    def couples_examples(self) -> bool:
        """Does it, by the normalisation of the projector?"""
        return self.projector != "dense"

    def stages(self, base: Stage) -> Stage:
        """An early net by ERM without a teacher; its mistakes; the base, reading them."""
        early = base.first_net(self.identify_share)
        return base.hang(early_mistakes=early.asked("mistake"))

    def check(self, spec: Spec) -> None:
        """Raises as that of `simkd`; ValueError for an early net that trains for no time."""
        if not 0 < self.identify_share <= 1:
            raise ValueError(
                f"distill.dett: identify_share = {self.identify_share}, expected a share of the "
                "steps, above 0 and up to 1"
            )
        projections.check_projector(self, spec, self.projector, self.narrowing)

    def check_tables(self, tables):
        """Raises ValueError where the early net made no mistake."""
        mistakes = np.asarray(tables["early_mistakes"]["mistake"])
        if not mistakes.any():
            raise ValueError(
                f"dett: the early net is right on all {mistakes.size} training examples: there is "
                "no error set to weigh. Train it for less (identify_share = "
                f"{float(self.identify_share):.3g})"
            )

    def init(self, spec, key):
        """Own parameters: a projector for each pair and teacher."""
        return projections.projectors(self.pairs, spec, key, self.projector, self.narrowing), {}

    def __call__(self, student, teachers, batch, params, now):
        """The weighed mean squared error, mean over teachers by their shares, [B]."""

        def loss(met):
            return projections.square_error(*projections.projected(params[met.name], met))

        losses = pairs.total(loss, self.pairs, student, teachers, batch)
        weights = self.weigh(jnp.ones_like(losses), batch)
        return KD(per_example=weights * losses, penalty=jnp.zeros(()), task_weight=weights)

    def weigh(self, losses, batch):
        """Losses by example, those of early mistakes times `factor`."""
        mistake = batch["tables"]["early_mistakes"]["mistake"].astype(losses.dtype)
        return (1.0 + (self.factor - 1.0) * mistake) * losses

    def finished(self, student, teachers, shares, params):
        """The student with the teacher's head behind a dense projector."""
        own = [params[pairs.name(pair, k)] for pair in self.pairs for k in range(len(teachers))]
        return projections.with_reused_head(student, teachers, shares, own)
