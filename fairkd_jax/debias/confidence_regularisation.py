"""Confidence regularisation: less sure targets where the bias is sure (arXiv 2005.00315, eq. 1-2).

`-sum_c s_c log softmax(z)_c`, `s ~ p_t^(1 - p_b(y))` normalised, with p_t what a net of the same
size answers that plain ERM trained. So it is itself a distillation, and the label is only in s.

A run costs 2.2 trainings: before the net comes the one that teaches it, which is trained as long,
and the weak learner of the usual bias for a fifth.
"""

import dataclasses
from typing import Any

import jax
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax.config import Mix, Stage, TableStage
from fairkd_jax.debias import biased
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import soft_cross_entropy
from fairkd_jax.types import Array, Batch, Spec

ERM = "erm"  # the table of the net that teaches


@struct.dataclass
class ConfidenceRegularisation(biased.Biased, Debiaser):
    """The cross-entropy with the targets in the place of the task loss; it reduces by the mean.

    Annealed (arXiv 2009.12303), p_b is raised to what falls to `anneal_to`, and normalised anew.
    """

    search = {"anneal_to": (0.8, 1.0)}

    anneal_to: Array = 1.0

    @property
    def tables(self) -> tuple[str, ...]:
        return (*super().tables, ERM)

    def stages(self, base: Stage) -> Stage:
        """The bias models, a net as plain ERM trains it, their answers; the base, reading them."""
        plain = {"debias": {"name": "erm"}, "distill": {"name": "none"}, "mix": Mix()}
        net = dataclasses.replace(base.change(plain | {"attributes": 0}), inputs={})
        table = TableStage(columns=("log_probs",), split=base.config.data.split)
        answers = Stage("table", table, {"net": net})
        return super().stages(base).hang(**{ERM: answers})

    def check(self, spec: Spec) -> None:
        """Raises ValueError for annealing to no share."""
        biased.check_annealing("confidence_regularisation", self.anneal_to)

    def targets(self, batch: Batch, exponent: Any = 1.0) -> Float[JaxArray, "B C"]:
        """s, where p_b is raised to an exponent."""
        doubt = biased.doubt(self, batch, exponent)
        return jax.nn.softmax(doubt[:, None] * biased.read(batch, ERM, "log_probs"))

    def task(self, outputs, batch, params, now):
        """The cross-entropy with the scaled targets, [B]."""
        targets = self.targets(batch, biased.annealed(self.anneal_to, now))
        return soft_cross_entropy(outputs["student"].logits, targets)
