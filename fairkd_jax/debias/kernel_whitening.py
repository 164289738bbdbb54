"""Kernel whitening: weights under which a batch has uncorrelated features (arXiv 2210.07547).

The features of the batch and some saved ones, each divided by its length, have inner products S;
`S (S + shift I)^(-1/2)` (Nystroem) is their map into the space of the kernel. Weights w start at 1
and descend on `sum_{i != j} Cov_w(map)_ij^2 / balance + sum softmax(w)^2`; the loss is the mean of
w times the losses. Steps and numbers are those of the authors' code.

A step costs 1.6x that of ERM (processor time, ResNet tiny, 64 x 32 px, two cores), and more beside
other work: threads of the LAPACK that finds eigenvectors wait by spinning. With
OPENBLAS_NUM_THREADS=1 it costs 1.0x.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import masked_mean
from fairkd_jax.types import Array, Spec

MOMENTUM, RUNNING = 0.9, 10  # of the inner descent; steps whose plain mean is saved


def nystroem_map(features: Float[JaxArray, "N D"], shift: Array) -> Float[JaxArray, "N N"]:
    """`S (S + shift I)^(-1/2)`; the code adds `shift` to eigenvalues too. A row of 0 stays one."""
    length = jnp.linalg.norm(features, axis=1, keepdims=True)
    unit = features / jnp.maximum(length, 1e-12)
    values, vectors = jnp.linalg.eigh(jnp.matmul(unit, unit.T, precision="highest"))
    values = jnp.maximum(values, 0)  # but for rounding it is none below
    scaled = vectors * (values * jax.lax.rsqrt(values + shift))
    return jnp.matmul(scaled, vectors.T, precision="highest")


def decorrelation(x: Float[JaxArray, "N M"], weights: Float[JaxArray, "N"]) -> Float[JaxArray, ""]:
    """The sum of squares off the diagonal of the covariance under `weights`, which sum to 1."""
    weighted = weights[:, None] * x
    mean = jnp.sum(weighted, axis=0)
    cov = jnp.matmul(weighted.T, x, precision="highest") - mean[:, None] * mean
    return jnp.sum(cov**2) - jnp.sum(jnp.diagonal(cov) ** 2)


@struct.dataclass
class KernelWhitening(Debiaser):
    """As in the code the weights themselves, about 1, not their softmax, multiply the losses.

    The code sums these over the batch: B times our mean, which Adam does not see. It saves as many
    rows as a batch has; here the first `saved` real rows of a batch move the first saved ones, and
    rows that nothing was saved in yet take no part.
    """

    couples_examples = True
    search = {"balance": (7.0, 70.0), "learning_rate": (2.8, 6.0)}

    balance: Array = 70.0  # lambda: what divides the decorrelation
    learning_rate: Array = 2.8  # of the weights, a tenth from half of the steps on; 6 for MNLI
    inner_steps: Array = 20
    power: Array = 2.0  # of the weights' softmax, which keeps them even
    decay: Array = 0.9  # of what is saved, after ten steps
    shift: Array = 1e-3  # of the eigenvalues
    saved: int = struct.field(pytree_node=False, default=32)  # rows; as many as a batch has

    def check(self, spec: Spec) -> None:
        """Raises ValueError for no saved rows, or a number out of its range."""
        for name, least in (("saved", 1), ("inner_steps", 0)):
            if getattr(self, name) < least:
                value = getattr(self, name)
                raise ValueError(f"kernel_whitening: {name} = {value}, expected {least} or more")
        for name in ("balance", "shift"):
            if not getattr(self, name) > 0:
                value = getattr(self, name)
                raise ValueError(f"kernel_whitening: {name} = {value}, expected a number above 0")

    def init(self, spec, key):
        """Memory: features [R, D], all 0, and their weights [R], all 1."""
        features = jnp.zeros((self.saved, spec.student.features.shape[-1]), jnp.float32)
        return {}, {"features": features, "weights": jnp.ones(self.saved, jnp.float32)}

    def __call__(self, terms, outputs, batch, params, now, key):
        """Learns the weights of the batch, saves them with its features, weighs the losses."""
        real = batch["real"] > 0
        features = jax.lax.stop_gradient(outputs["student"].features)
        features = jnp.where(real[:, None], features, 0)
        weights, left = self._learn(features, real, now.memory)
        memory = self._save(features, weights, real, now)
        metrics = {"decorrelation": left, "largest_weight": jnp.max(jnp.where(real, weights, 0))}
        return masked_mean(weights * terms.total, batch["real"]), memory, metrics

    def _learn(self, features, real, memory):
        """(weights [B], what is left of the decorrelation)."""
        taken = jnp.concatenate([real, jnp.any(memory["features"] != 0, axis=1)])
        x = nystroem_map(jnp.concatenate([features, memory["features"]]), self.shift)

        def softmax(w, of):
            return jax.nn.softmax(jnp.where(of, w, jnp.finfo(w.dtype).min)) * of

        def left(w):
            return decorrelation(x, softmax(jnp.concatenate([w, memory["weights"]]), taken))

        def objective(w):
            return left(w) / self.balance + jnp.sum(softmax(w, real) ** self.power)

        def descend(i, state):
            w, velocity = state
            velocity = MOMENTUM * velocity + jax.grad(objective)(w)
            late = 2 * i >= self.inner_steps
            return w - self.learning_rate * jnp.where(late, 0.1, 1.0) * velocity, velocity

        start = jnp.ones(len(features), features.dtype)
        steps = jnp.asarray(self.inner_steps, jnp.int32)
        weights, _ = jax.lax.fori_loop(0, steps, descend, (start, 0 * start))
        return weights, left(weights)

    def _save(self, features, weights, real, now):
        """The memory after the step; a product with a one-hot matrix picks the first real rows."""
        old, rank = now.memory, jnp.cumsum(real) - 1
        place = (rank == jnp.arange(self.saved)[:, None]) & real
        seen = jnp.any(place, axis=1)
        rate = jnp.where(now.step < RUNNING, 1 / (now.step + 1.0), 1 - self.decay) * seen

        def mix(old, new):
            new = jnp.matmul(place.astype(new.dtype), new, precision="highest")
            return old + rate.reshape(-1, *[1] * (new.ndim - 1)).astype(old.dtype) * (new - old)

        return {"features": mix(old["features"], features), "weights": mix(old["weights"], weights)}
