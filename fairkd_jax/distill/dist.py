"""DIST: correlation in the place of divergence (arXiv 2205.10536).

`beta (1 - r(p_t, p_s))` over classes of an example, and `gamma (1 - r)` over examples of a class,
r Pearson's correlation; with probabilities at temperature T, times `T^2`.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax import geometry
from fairkd_jax.distill.base import Distiller, mean_over, require_teachers
from fairkd_jax.losses import of_rows
from fairkd_jax.types import KD, Array, Batch, Spec

EPSILON = 1e-8  # added to the product of norms, as in the authors' code


def apart(
    x: Float[JaxArray, "B C"],
    y: Float[JaxArray, "B C"],
    weight: Float[JaxArray, "#B #C"],
    axis: int,
) -> Float[JaxArray, "N"]:
    """1 - r, Pearson's over the places of `axis` where `weight` is 1; 1 where either is constant.

    Of unit vectors it is half their squared distance, which keeps its digits as they meet.
    """
    count = jnp.maximum(jnp.sum(jnp.broadcast_to(weight, x.shape), axis, keepdims=True), 1.0)
    x, y = (weight * (v - jnp.sum(weight * v, axis, keepdims=True) / count) for v in (x, y))
    x, y = (jnp.moveaxis(v, axis, -1) for v in (x, y))
    product = (geometry.length(x) * geometry.length(y))[..., 0]
    half = jnp.sum((geometry.unit(x) - geometry.unit(y)) ** 2, axis=-1) / 2
    return (product * half + EPSILON) / (product + EPSILON)


@struct.dataclass
class DIST(Distiller):
    """Correlation over examples is none of one example: a penalty, beside the debiasing.

    The formula has no `T^2`: it keeps gradients of one size, as in distillation of logits.
    """

    reads = "logits"
    couples_examples = True

    beta: Array = 1.0  # of classes, by example
    gamma: Array = 1.0  # of examples, by class
    temperature: Array = 1.0

    def check(self, spec: Spec) -> None:
        """Raises ValueError without a teacher, or for one of other classes."""
        require_teachers(spec, "dist")

    def terms(self, teacher: Array, student: Array, batch: Batch) -> tuple[Array, Array]:
        """(1 - r over classes, [B]; the mean over classes of 1 - r over real examples)."""
        rows, logits = batch["real"][:, None], (jax.lax.stop_gradient(teacher), student)
        p, q = (jax.nn.softmax(of_rows(z, batch["real"]) / self.temperature) for z in logits)
        inter = apart(p, q, jnp.ones_like(rows), axis=1)
        return inter, jnp.mean(apart(p, q, rows, axis=0))

    def __call__(self, student, teachers, batch, params, now):
        """Both terms, each the mean over teachers by their shares."""
        terms = [self.terms(x.logits, student.logits, batch) for x in teachers]
        inter, intra = (self.temperature**2 * mean_over(teachers, each) for each in zip(*terms))
        return KD(
            per_example=self.beta * inter,
            penalty=self.gamma * intra,
            metrics={"intra": intra},
        )
