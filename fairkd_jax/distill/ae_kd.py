"""AE-KD: teachers weigh as their gradients agree (Du et al., NeurIPS 2020, eq. 10-13).

`min_a |sum_m a_m g_m|^2 / 2` over `sum_m a_m = 1, 0 <= a_m <= C`, where g_m is the gradient of the
loss under teacher m to the student's logits, its mean over the batch; then `sum_m a_m loss_m`.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax.distill.base import Distiller, mean_over, require_teachers, shares
from fairkd_jax.losses import kl_divergence, of_rows
from fairkd_jax.types import KD, Array, Batch, Spec

MOST_STEPS = 200  # of the solver; a handful of teachers takes some ten


def min_norm(gram: Float[JaxArray, "M M"], cap: Array) -> Float[JaxArray, "M"]:
    """Weights a with `a G a` least over `sum a = 1, 0 <= a <= cap`; cap is at least 1 / M.

    Sequential minimal optimisation, as in libsvm, which the authors call: weight moves between the
    two teachers that violate optimality most, until none does by more than rounding.
    """
    gram = gram / jnp.maximum(jnp.max(jnp.diagonal(gram)), jnp.finfo(gram.dtype).tiny)
    eps = 16 * jnp.finfo(gram.dtype).eps

    def pair(a: Array) -> tuple[Array, Array, Array]:
        slope = gram @ a
        low = jnp.where(a < cap - eps, slope, jnp.inf)
        high = jnp.where(a > eps, slope, -jnp.inf)
        return jnp.argmin(low), jnp.argmax(high), jnp.max(high) - jnp.min(low)

    def goes_on(state: tuple) -> Array:
        a, steps = state
        return (pair(a)[2] > eps) & (steps < MOST_STEPS)

    def move(state: tuple) -> tuple:
        a, steps = state
        to, off, violation = pair(a)
        curvature = gram[to, to] + gram[off, off] - 2 * gram[to, off]
        best = violation / jnp.maximum(curvature, eps)
        moved = jnp.minimum(best, jnp.minimum(cap - a[to], a[off]))
        return a.at[to].add(moved).at[off].add(-moved), steps + 1

    start = jnp.full(len(gram), 1 / len(gram), gram.dtype)
    weights, _ = jax.lax.while_loop(goes_on, move, (start, 0))
    return weights / jnp.sum(weights)


@struct.dataclass
class AEKD(Distiller):
    """The loss by teacher is `T^2 KL`; weights are constants to the gradient.

    As in the authors' code the gradients have length 1 in the problem, and the weights that solve
    it are divided by their lengths, so that each teacher's push has its weight's size. Shares of
    teachers, where given, multiply the weights. With C = 1 / M this is `logits`.
    """

    reads = "logits"
    couples_examples = True  # by the weights

    temperature: Array = 4.0
    cap: Array = 0.6  # C, the most a teacher may weigh; below 1 / M it is 1 / M
    normalise: bool = struct.field(pytree_node=False, default=True)

    def check(self, spec: Spec) -> None:
        """Raises ValueError without a teacher, for one of other classes, or a cap that is none."""
        require_teachers(spec, "ae_kd")
        if not 0 < self.cap <= 1:
            raise ValueError(f"distill.ae_kd: cap = {self.cap}, expected a share of 1, above 0")

    def weights(self, student: Array, teachers: list[Array], batch: Batch) -> Float[JaxArray, "M"]:
        """Of the teachers with these logits [B, C]; sums to 1. The mean is over real examples."""
        p, *q = (jax.nn.softmax(z / self.temperature) for z in (student, *teachers))
        slopes = jnp.stack([jnp.mean(of_rows(p - x, batch["real"]), axis=0) for x in q])
        size = jnp.linalg.norm(slopes, axis=1)
        size = jnp.maximum(size, jnp.finfo(size.dtype).eps * jnp.maximum(jnp.max(size), 1e-20))
        if not self.normalise:
            size = jnp.ones_like(size)
        slopes = slopes / size[:, None]
        gram = jnp.matmul(slopes, slopes.T, precision="highest")
        weights = min_norm(gram, jnp.clip(self.cap, 1 / len(q), 1.0)) / size
        return weights / jnp.sum(weights)

    def __call__(self, student, teachers, batch, params, now):
        """The weighted mean over teachers, [B]."""
        t, logits = self.temperature, [x.logits for x in teachers]
        losses = [t**2 * kl_divergence(z, student.logits, t) for z in logits]
        found = self.weights(*jax.lax.stop_gradient((student.logits, logits)), batch)
        shared = [x.replace(share=w * s) for x, w, s in zip(teachers, found, shares(teachers))]
        metrics = {f"weight{k}": w for k, w in enumerate(found)}
        return KD(per_example=mean_over(shared, losses), penalty=jnp.zeros(()), metrics=metrics)
