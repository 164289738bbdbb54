"""Distillation of softened logits (arXiv 1503.02531): `T^2 KL(teacher^T || student^T)`.

Or the reverse divergence, which seeks modes (arXiv 2306.08543), or that of Jensen and Shannon.
"""

import jax
import jax.numpy as jnp
from flax import struct

from fairkd_jax.distill.base import Distiller, mean_over, require_teachers, shares
from fairkd_jax.losses import (
    jensen_shannon_divergence,
    kl_divergence,
    reverse_kl_divergence,
)
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import KD, Array, Spec

DIVERGENCES = {
    "forward": kl_divergence,
    "reverse": reverse_kl_divergence,
    "jensen_shannon": jensen_shannon_divergence,
}
MEANS = ("losses", "probabilities")


@struct.dataclass
class Logits(Distiller):
    """Summed over classes, per example; `T^2` keeps gradients of one size over temperatures.

    Of several teachers the losses are averaged (AVER, as in AE-KD's code), or the divergence is to
    the mean of their probabilities, which is another loss with, for "forward", the same gradient.
    """

    reads = "logits"

    temperature: Array = 4.0
    divergence: str = struct.field(pytree_node=False, default="forward")  # reverse | jensen_shannon
    mean: str = struct.field(pytree_node=False, default="losses")  # of teachers; or probabilities

    def __post_init__(self):
        for name, choices in (("divergence", DIVERGENCES), ("mean", MEANS)):
            if (value := getattr(self, name)) not in choices:
                raise UnknownName(value, f"{name} of distill.logits:", choices)

    def check(self, spec: Spec) -> None:
        """Raises ValueError without a teacher, or for one of other classes."""
        require_teachers(spec, "logits")

    def __call__(self, student, teachers, batch, params, now):
        """`T^2` times the divergence, over teachers by their shares, [B]."""
        t, divergence = self.temperature, DIVERGENCES[self.divergence]
        if self.mean == "probabilities" and len(teachers) > 1:
            log_probs = jnp.stack([jax.nn.log_softmax(x.logits / t) for x in teachers])
            weights = jnp.stack([jnp.asarray(w) for w in shares(teachers)])[:, None, None]
            logits = t * jax.nn.logsumexp(log_probs, axis=0, b=weights)
            loss = divergence(logits, student.logits, t)
        else:
            loss = mean_over(teachers, [divergence(x.logits, student.logits, t) for x in teachers])
        return KD(per_example=t**2 * loss, penalty=jnp.zeros(()))
