"""AGRE-KD: teachers weigh as they disagree with a biased net (arXiv 2411.14984).

`sum_m w_m T^2 KL_m / sum_m w_m`, `w_m = 1 - cos(g_m, g_b)` by example, where g_m is the gradient of
the loss under teacher m, g_b that under the biased net. From a second-hand description; details
recalled, not checked: gradients there are to parameters, of a batch in a reimplementation.
"""

import jax
import jax.numpy as jnp
from flax import struct

from fairkd_jax.distill.base import Distiller, require_teachers, shares
from fairkd_jax.losses import kl_divergence
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import KD, Array, Spec


@struct.dataclass
class AGREKD(Distiller):
    """Gradients are to the student's logits, so they cost nothing: T (p_student - p_m).

    The biased net is one of the experiment's teachers; no loss is to it. Where nothing weighs, all
    point as it does and there is no loss. Shares of teachers multiply the weights.
    """

    reads = "logits"

    temperature: Array = 4.0
    biased: str = struct.field(pytree_node=False, default="biased")  # which of the teachers

    def check(self, spec: Spec) -> None:
        """Raises ValueError without a teacher, or for one of other classes.

        Raises UnknownName where no teacher is called as the biased one, or no other is there.
        """
        require_teachers(spec, "agre_kd")
        names = [x.name for x in spec.teachers]
        if self.biased not in names:
            raise UnknownName(
                self.biased, "teacher in distill.agre_kd.biased:", filter(None, names)
            )
        if len(names) < 2:
            raise ValueError(f"distill.agre_kd: {names} needs another teacher than the biased one")

    def agreement(self, student: Array, teacher: Array, biased: Array) -> Array:
        """Cosine of the gradients under a teacher and under the biased net, [B]; no gradient."""
        p, *q = (jax.nn.softmax(z / self.temperature) for z in (student, teacher, biased))
        a, b = (p - x for x in q)
        square = jnp.sum(a**2, axis=1) * jnp.sum(b**2, axis=1)
        return jnp.sum(a * b, axis=1) * jax.lax.rsqrt(jnp.maximum(square, 1e-30))

    def __call__(self, student, teachers, batch, params, now):
        """Weighted mean over the teachers that are not the biased one, [B]."""
        t, z = self.temperature, jax.lax.stop_gradient(student.logits)
        biased = [x for x in teachers if x.name == self.biased]
        losses, weights = [], []
        for x, share in zip(teachers, shares(teachers)):
            if x.name != self.biased:
                cos = sum(self.agreement(z, x.logits, b.logits) for b in biased)
                weights.append(jax.lax.stop_gradient(share * (1.0 - cos)))
                losses.append(t**2 * kl_divergence(x.logits, student.logits, t))
        total = jnp.maximum(sum(weights), 1e-6)
        loss = sum(w * loss for w, loss in zip(weights, losses)) / total
        return KD(per_example=loss, penalty=jnp.zeros(()))
