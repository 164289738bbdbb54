"""Regression of logits: `|z_s - z_t|^2 / C`, the mean over classes (arXiv 2105.08919).

Ba and Caruana (arXiv 1312.6184) have half of the sum, C / 2 times this: mind the weight.
"""

import jax
import jax.numpy as jnp
from flax import struct

from fairkd_jax.distill.base import Distiller, mean_over, require_teachers
from fairkd_jax.types import KD, Spec


@struct.dataclass
class MSE(Distiller):
    """Of logits as they are: unlike a divergence it also teaches their offset."""

    reads = "logits"

    def check(self, spec: Spec) -> None:
        """Raises ValueError without a teacher, or for one of other classes."""
        require_teachers(spec, "mse")

    def __call__(self, student, teachers, batch, params, now):
        """Mean square over classes, mean over teachers by their shares, [B]."""
        targets = [jax.lax.stop_gradient(x.logits) for x in teachers]
        losses = [jnp.mean((student.logits - z) ** 2, axis=1) for z in targets]
        return KD(per_example=mean_over(teachers, losses), penalty=jnp.zeros(()))
