"""A teacher that knows nothing: `T^2 KL(uniform || student^T)`, a control of distillation.

Distillation that gains no more than this gains nothing from what a teacher knows (teacher-free
distillation, arXiv 1909.11723). At T = 1 its gradient is that of cross-entropy with uniform
targets, so `(1 - e) CE + e` times it is label smoothing (arXiv 1512.00567).
"""

import jax.numpy as jnp
from flax import struct

from fairkd_jax.distill.base import Distiller
from fairkd_jax.losses import kl_divergence
from fairkd_jax.types import KD, Array


@struct.dataclass
class LabelSmoothing(Distiller):
    """Reads no teacher: every class is as likely."""

    temperature: Array = 1.0

    def __call__(self, student, teachers, batch, params, now):
        """`T^2` times the divergence, [B]."""
        t, z = self.temperature, student.logits
        return KD(per_example=t**2 * kl_divergence(jnp.zeros_like(z), z, t), penalty=jnp.zeros(()))
