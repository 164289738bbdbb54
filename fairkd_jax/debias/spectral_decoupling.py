"""Spectral decoupling (arXiv 2011.09468, eq. 25): an L2 penalty on logits, not on parameters.

`mean CE + weight * mean z^2`, over examples and classes. Trap: the paper prints `lambda / 2 |z|^2`,
a sum over the C classes, but the codes whose coefficients are published (lw-robust, DomainBed) take
this mean, which is C/2 weaker. We follow the codes; the printed lambda is `weight = lambda C / 2`.
"""

import jax.numpy as jnp
from flax import struct

from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import masked_mean
from fairkd_jax.types import Array


@struct.dataclass
class SpectralDecoupling(Debiaser):
    """Large logits cost, so that no single feature can starve the gradient of the others."""

    search = {"weight": (0.01, 0.1, 1.0)}

    weight: Array = 0.1

    def __call__(self, terms, outputs, batch, params, now, key):
        """The mean loss plus the penalty."""
        size = jnp.mean(outputs["student"].logits ** 2, axis=1)
        penalty = masked_mean(size, batch["real"])
        loss = masked_mean(terms.total, batch["real"]) + self.weight * penalty
        return loss, now.memory, {"penalty": penalty}
