"""Distillation of softened logits (arXiv 1503.02531): `T^2 KL(teacher^T || student^T)`."""

import jax.numpy as jnp
from flax import struct

from fairkd_jax.distill.base import Distiller, mean_over
from fairkd_jax.losses import kl_divergence
from fairkd_jax.types import KD, Array, Spec


@struct.dataclass
class Logits(Distiller):
    """Summed over classes, per example; `T^2` keeps gradients of one size over temperatures.

    Of several teachers the losses are averaged, which is not the loss of averaged teachers.
    """

    reads = "logits"

    temperature: Array = 4.0

    def check(self, spec: Spec) -> None:
        """Raises ValueError without a teacher, or for one of other classes."""
        if not spec.teachers:
            raise ValueError("distill.logits needs a teacher: there is none")
        for k, teacher in enumerate(spec.teachers):
            if teacher.logits.shape[-1] != spec.num_classes:
                raise ValueError(
                    f"distill.logits: teacher {k} tells {teacher.logits.shape[-1]} classes apart, "
                    f"the student {spec.num_classes}"
                )

    def __call__(self, student, teachers, batch, params, now):
        """`T^2` times the KL divergence, mean over teachers by their shares, [B]."""
        t = self.temperature
        losses = [t**2 * kl_divergence(x.logits, student.logits, t) for x in teachers]
        return KD(per_example=mean_over(teachers, losses), penalty=jnp.zeros(()))
