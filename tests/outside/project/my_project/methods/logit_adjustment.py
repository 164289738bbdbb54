"""Logit adjustment (arXiv 2007.07314, eq. 10): `CE(logits + tau log prior, label)`."""

import jax.numpy as jnp
from flax import struct

from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import cross_entropy
from fairkd_jax.types import Array


@struct.dataclass
class LogitAdjustment(Debiaser):
    """Priors are those of the labels in the training split."""

    tau: Array = 1.0

    def task(self, outputs, batch, params, now):
        """The adjusted cross-entropy, [B]."""
        prior = now.label_counts / jnp.sum(now.label_counts)
        return cross_entropy(outputs["student"].logits + self.tau * jnp.log(prior), batch["label"])
