"""Product of experts with frozen bias models (arXiv 1909.03683 and 1909.06321; 2012.01300).

`CE(log softmax(z) + exponent * b, y)` with `b` the bias models' log-probabilities; the net predicts
by `z` alone, having had no reason to learn what they know.
"""

from flax import struct

from fairkd_jax.debias import biased
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import task_loss
from fairkd_jax.types import Array, Spec


@struct.dataclass
class PoE(biased.Biased, Debiaser):
    """The task loss of the ensemble; it reduces by the mean.

    Annealed (arXiv 2009.12303), the exponent falls linearly, to `anneal_to` times itself.
    """

    search = {"exponent": (0.5, 1.0), "anneal_to": (0.8, 1.0)}

    exponent: Array = 1.0  # of the bias models' probabilities
    anneal_to: Array = 1.0

    def check(self, spec: Spec) -> None:
        """Raises ValueError for annealing to no share."""
        biased.check_annealing("poe", self.anneal_to)

    def task(self, outputs, batch, params, now):
        """Cross-entropy of the product, [B]; `log softmax(z)` and `z` differ by a constant."""
        exponent = self.exponent * biased.annealed(self.anneal_to, now)
        bias = biased.product(self, batch)
        return task_loss(outputs["student"].logits + exponent * bias, batch)
