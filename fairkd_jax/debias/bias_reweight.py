"""Reweighting by what bias models do not know: `sum w l / sum w`, `w = 1 - p_b(y)` (1909.03683).

The sums are over the batch, as in the authors' code: examples that the bias models answer count
little, and the step is no smaller for it.
"""

import jax.numpy as jnp
from flax import struct

from fairkd_jax.debias import biased
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import masked_mean
from fairkd_jax.types import Array, Spec


@struct.dataclass
class BiasReweight(biased.Biased, Debiaser):
    """The weighted mean. Annealed (arXiv 2009.12303), w is raised to what falls to `anneal_to`."""

    couples_examples = True  # through the sum of the weights
    search = {"anneal_to": (0.8, 1.0)}

    anneal_to: Array = 1.0

    def check(self, spec: Spec) -> None:
        """Raises ValueError for annealing to no share."""
        biased.check_annealing("bias_reweight", self.anneal_to)

    def __call__(self, terms, outputs, batch, params, now, key):
        """0 for a batch of which the bias models are sure of every label."""
        exponent = biased.annealed(self.anneal_to, now)
        weights = biased.doubt(self, batch) ** exponent
        mean = masked_mean(weights, batch["real"])
        loss = masked_mean(weights * terms.total, batch["real"]) / jnp.maximum(mean, 1e-8)
        return loss, now.memory, {"mean_weight": mean}
