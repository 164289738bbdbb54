"""The last layer of automatic feature reweighting (AFR, arXiv 2306.11074), by gradient descent.

`sum_i w_i CE_i + penalty ||theta - theta_0||^2` over all held-out examples at once, with
`w_i ~ exp(-gamma p_y)` of the head that is there, theta_0, divided by their sum; `rebalance` first
multiplies them by n / n_class. A step is one of plain gradient descent, its gradient clipped as
PyTorch does it: by its norm and 1e-6.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from fairkd_jax.debias.inference import Inference, require_affine
from fairkd_jax.losses import cross_entropy

Head = dict[str, Array]


def weights(
    logits: Float[Array, "n C"], label: Int[Array, "n"], gamma: Float[Array, ""], rebalance: bool
) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """(`exp(-gamma p_y)`, the same rebalanced where asked, and divided by the sum)."""
    raw = jnp.exp(-gamma * jnp.exp(-cross_entropy(logits, label)))
    found = raw
    if rebalance:
        member = jax.nn.one_hot(label, logits.shape[1], dtype=raw.dtype)
        found = raw * (len(label) / (member @ jnp.sum(member, axis=0)))
    return raw, found / jnp.sum(found)


def loss(
    head: Head,
    start: Head,
    features: Float[Array, "n D"],
    label: Int[Array, "n"],
    weight: Float[Array, "n"],
    penalty: Float[Array, ""],
) -> Float[Array, ""]:
    """The weighted loss, and how far the head is from where it started."""
    logits = features @ head["head/kernel"] + head["head/bias"]
    moved = sum(jnp.sum((head[k] - start[k]) ** 2) for k in head)
    return jnp.sum(weight * cross_entropy(logits, label)) + penalty * moved


@functools.partial(jax.jit, static_argnames="steps")
def descend(
    start: Head,
    features: Float[Array, "n D"],
    label: Int[Array, "n"],
    weight: Float[Array, "n"],
    learning_rate: Float[Array, ""],
    penalty: Float[Array, ""],
    clip_norm: Float[Array, ""],
    steps: int,
) -> Head:
    """The head after so many steps from `start`."""

    def step(_, head):
        down = jax.grad(loss)(head, start, features, label, weight, penalty)
        rate = learning_rate * jnp.minimum(1.0, clip_norm / (optax.tree.norm(down) + 1e-6))
        return jax.tree.map(lambda x, slope: x - rate * slope, head, down)

    return jax.lax.fori_loop(0, steps, step, start)


@dataclasses.dataclass(frozen=True)
class WeightedHead(Inference):
    """A head from the examples that column "held" of the table "part" has as 1.

    The authors choose the numbers by the worst group of validation; here they are given.
    """

    tables: ClassVar = {"features": ("features",), "part": ("held",)}
    replaces = "head/.*"

    gamma: float = 10.0
    rebalance: bool = True
    penalty: float = 0.0
    learning_rate: float = 0.01
    clip_norm: float = 1.0
    steps: int = 500

    def __post_init__(self):
        if min(self.gamma, self.penalty) < 0 or not min(self.learning_rate, self.clip_norm) > 0:
            raise ValueError(f"{self}: gamma and penalty are numbers from 0 up, rates above 0")

    def check_shapes(self, shapes):
        """Raises ValueError for a head that is more than one product."""
        require_affine(self, shapes)

    def variables(self, old, examples, tables, seed):
        """The head after `steps` steps from the one that is there."""
        held = np.flatnonzero(tables["part"]["held"])
        features = np.float32(tables["features"]["features"][held])
        numbers = (self.gamma, self.learning_rate, self.penalty, self.clip_norm)
        given = (dict(old), features, examples.columns["label"][held], np.float32(numbers))
        return jax.device_get(_fit(*jax.device_put(given), self.rebalance, self.steps))


@functools.partial(jax.jit, static_argnames=("rebalance", "steps"))
def _fit(start, features, label, numbers, rebalance, steps):
    gamma, learning_rate, penalty, clip_norm = numbers
    logits = features @ start["head/kernel"] + start["head/bias"]
    _, weight = weights(logits, label, gamma, rebalance)
    return descend(start, features, label, weight, learning_rate, penalty, clip_norm, steps)
