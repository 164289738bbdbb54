"""Decoupled distillation (arXiv 2203.08679, eq. 7): `T^2 (alpha TCKD + beta NCKD)`.

TCKD is the divergence of (p_y, 1 - p_y), NCKD that of the softmax without the label's logit. Both
are of log-sum-exps of logits: the authors' code takes logarithms of sums of probabilities, which
are 0 for a confident net in float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float, Int

from fairkd_jax.distill.base import Distiller, mean_over, require_teachers
from fairkd_jax.losses import by_share, kl_divergence, labelled
from fairkd_jax.types import KD, Array, Spec


def decoupled(
    z: Float[JaxArray, "B C"], label: Int[JaxArray, "B"], temperature: Array
) -> tuple[Float[JaxArray, "B 2"], Float[JaxArray, "B E"]]:
    """(logits of the label and of any other class, logits of the E = C - 1 others)."""
    index = jnp.arange(z.shape[1] - 1)
    index = index + (index >= label[:, None])  # gathered, so that none needs a logit of -infinity
    own, others = (jnp.take_along_axis(z, i, axis=1) for i in (label[:, None], index))
    any_other = temperature * jax.nn.logsumexp(others / temperature, axis=1, keepdims=True)
    return jnp.concatenate([own, any_other], axis=1), others


@struct.dataclass
class DKD(Distiller):
    """The authors let the loss rise over 20 epochs: `weight` = {"from": 0.0, "to": 1.0, ...}.

    Examples without a known label have the divergence that is not decoupled.
    """

    reads = "logits"

    alpha: Array = 1.0
    beta: Array = 8.0
    temperature: Array = 4.0

    def check(self, spec: Spec) -> None:
        """Raises ValueError without a teacher, or for one of other classes."""
        require_teachers(spec, "dkd")

    def terms(self, teacher: Array, student: Array, label: Array) -> tuple[Array, Array]:
        """(TCKD, NCKD), [B] each and times `T^2`."""
        t = self.temperature
        pairs = zip(*(decoupled(z, label, t) for z in (teacher, student)))
        tckd, nckd = (t**2 * kl_divergence(*pair, t) for pair in pairs)
        return tckd, nckd

    def weighted(self, teacher: Array, student: Array, label: Array) -> Array:
        """`T^2 (alpha TCKD + beta NCKD)`, [B]."""
        tckd, nckd = self.terms(teacher, student, label)
        return self.alpha * tckd + self.beta * nckd

    def __call__(self, student, teachers, batch, params, now):
        """Mean over teachers by their shares, [B]."""
        losses, z = [], student.logits
        for x in teachers:
            loss = by_share(partial(self.weighted, x.logits, z), batch)
            if "labelled" in batch:
                plain = self.temperature**2 * kl_divergence(x.logits, z, self.temperature)
                loss = jnp.where(labelled(batch) > 0, loss, plain)
            losses.append(loss)
        return KD(per_example=mean_over(teachers, losses), penalty=jnp.zeros(()))
