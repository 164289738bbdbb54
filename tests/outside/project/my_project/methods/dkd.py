"""Decoupled distillation (arXiv 2203.08679, eq. 7): `alpha TCKD + beta NCKD`, warmed up."""

import jax
import jax.numpy as jnp
from flax import struct

from fairkd_jax.distill.base import Distiller
from fairkd_jax.losses import kl_divergence
from fairkd_jax.types import KD, Array

LEAST = -1e4  # a logit of no probability


@struct.dataclass
class DKD(Distiller):
    """Is it the label or not (TCKD); if not, which other (NCKD)? Each a divergence times `T^2`."""

    reads = "logits"

    alpha: Array = 1.0
    beta: Array = 8.0
    temperature: Array = 4.0
    warmup: Array = 0.1  # share of the steps over which the loss rises

    def __call__(self, student, teachers, batch, params, now):
        """Times `min(steps so far / those of the warm-up, 1)`; mean over teachers, [B]."""
        t, label = self.temperature, batch["label"][:, None]

        def others(z):
            return jnp.where(jnp.arange(z.shape[1]) == label, LEAST, z)

        def label_or_not(z):
            rest = t * jax.nn.logsumexp(others(z) / t, axis=1, keepdims=True)
            return jnp.concatenate([jnp.take_along_axis(z, label, axis=1), rest], axis=1)

        def loss(teacher):
            pairs = ((self.alpha, label_or_not), (self.beta, others))
            return sum(w * t**2 * kl_divergence(f(teacher), f(student.logits), t) for w, f in pairs)

        rise = jnp.minimum((now.step + 1) / (self.warmup * now.steps), 1.0)
        losses = sum(loss(x.logits) for x in teachers) / len(teachers)
        return KD(per_example=rise * losses, penalty=jnp.zeros(()))
