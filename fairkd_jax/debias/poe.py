"""Product of experts with a frozen bias model (arXiv 1909.03683 and 1909.06321; 2012.01300).

`CE(log softmax(z) + exponent * b, y)` with `b` the bias model's log-probabilities; the net predicts
by `z` alone, having had no reason to learn what the bias model knows.
"""

import dataclasses
from typing import Any

from flax import struct

from fairkd_jax.config import Mix, Stage, TableStage
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import task_loss
from fairkd_jax.types import Array


@struct.dataclass
class PoE(Debiaser):
    """The task loss of the ensemble; it reduces by the mean.

    `bias_model` is a model spec, {"name": "bert", "preset": "tiny"}: a weak learner, or, with a
    "view" of its own, one that sees only part of the input. Empty: the base's model, only briefly
    trained.
    """

    tables = ("bias",)

    exponent: Array = 1.0  # of the bias model's probabilities
    bias_share: Array = 0.2  # of the steps: how long the bias model trains
    bias_model: tuple[tuple[str, Any], ...] = struct.field(pytree_node=False, default=())

    def stages(self, base: Stage) -> Stage:
        """The bias model by plain ERM without a teacher; its answers; the base, reading them."""
        steps = max(1, round(self.bias_share * base.config.train.steps))
        bias = base.change(
            {
                "model": dict(self.bias_model) or base.config.model,
                "debias": {"name": "erm"},
                "distill": {"name": "none"},
                "mix": Mix(),
                "train.steps": steps,
                "train.patience": 0,
                "train.select": "last",
            }
            | ({"optim.rates": {}} if self.bias_model else {})  # its paths are others
        )
        bias = dataclasses.replace(bias, inputs={})
        table = TableStage(columns=("log_probs",), split=base.config.data.split)
        return base.hang(bias=Stage("table", table, {"net": bias}))

    def task(self, outputs, batch, params, now):
        """Cross-entropy of the product, [B]; `log softmax(z)` and `z` differ by a constant."""
        bias = batch["tables"]["bias"]["log_probs"]
        return task_loss(outputs["student"].logits + self.exponent * bias, batch)
