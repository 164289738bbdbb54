"""Environment inference (EIIL, arXiv 2010.07249): a soft split that violates invariance most.

With s_i = d/ds CE(s z_i, y_i) at s = 1 and e = sigmoid(w), w drawn from a normal distribution, Adam
maximises `1/2 [(mean e s)^2 + (mean (1 - e) s)^2]`: the penalties of IRMv1 of both environments,
each divided by all N examples, as in the authors' code. The environment is 1 where e > 1/2.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from fairkd_jax.debias.inference import Inference
from fairkd_jax.debias.irm import scale_gradient


def penalties(weights: Float[Array, "N"], slopes: Float[Array, "N"]) -> Float[Array, ""]:
    """What is maximised: half the sum of both environments' penalties, softly assigned."""
    first = jax.nn.sigmoid(weights)
    return (jnp.mean(first * slopes) ** 2 + jnp.mean((1 - first) * slopes) ** 2) / 2


@functools.partial(jax.jit, static_argnames="steps")
def split(
    weights: Float[Array, "N"],
    slopes: Float[Array, "N"],
    learning_rate: Float[Array, ""],
    steps: int,
) -> Float[Array, "N"]:
    """The weights after so many steps of Adam up the penalties."""
    optimizer = optax.adam(learning_rate)

    def step(_, state):
        weights, memory = state
        down = jax.grad(lambda w: -penalties(w, slopes))(weights)
        updates, memory = optimizer.update(down, memory)
        return optax.apply_updates(weights, updates), memory

    return jax.lax.fori_loop(0, steps, step, (weights, optimizer.init(weights)))[0]


@dataclasses.dataclass(frozen=True)
class Environments(Inference):
    """Column "attribute": 0 or 1, the environment of each example.

    A label that no one knows has no slope: such an example stays where it was drawn.
    """

    tables: ClassVar = {"reference": ("logits",)}

    steps: int = 20_000
    learning_rate: float = 0.01

    def __post_init__(self):
        if self.steps < 1 or not self.learning_rate > 0:
            raise ValueError(
                f"environments: steps = {self.steps}, learning_rate = {self.learning_rate}, "
                "expected numbers above 0"
            )

    def columns(self, examples, tables, seed):
        """The environments by the reference net's logits."""
        label = examples.columns["label"]
        given = jax.device_put((np.float32(tables["reference"]["logits"]), label))
        slopes = jax.device_get(jax.jit(scale_gradient)(*given))
        slopes = slopes * examples.columns.get("labelled", np.float32(1))
        weights = np.random.default_rng(seed).standard_normal(len(label), np.float32)
        given = jax.device_put((weights, slopes, np.float32(self.learning_rate)))
        return {"attribute": jax.device_get(split(*given, self.steps)) > 0}
