"""How the examples of a batch lie to each other: lengths, distances and products of rows.

Products are of full float32 precision, differences are taken before they are squared, so that near
points keep theirs, and gradients are finite where a length or a distance is zero: zero there.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def length(x: Float[Array, "*N D"]) -> Float[Array, "*N 1"]:
    """`|x|` along the last axis; at 0 its gradient is 0."""
    return root(jnp.sum(x**2, axis=-1, keepdims=True))


def unit(x: Float[Array, "*N D"], least: float = 1e-12) -> Float[Array, "*N D"]:
    """`x / |x|` along the last axis; 0, with gradient 0, where `|x|` is at most `least`."""
    square = jnp.sum(x**2, axis=-1, keepdims=True)
    long = square > least**2
    return jnp.where(long, x * jax.lax.rsqrt(jnp.where(long, square, 1.0)), 0.0)


def products(a: Float[Array, "A D"], b: Float[Array, "B D"]) -> Float[Array, "A B"]:
    """`<a_i, b_j>`."""
    return jnp.matmul(a, b.T, precision="highest")


def square_distances(a: Float[Array, "A D"], b: Float[Array, "B D"]) -> Float[Array, "A B"]:
    """`|a_i - b_j|^2`; XLA sums it without an array [A, B, D]."""
    return jnp.sum((a[:, None] - b[None]) ** 2, axis=-1)


def distances(a: Float[Array, "A D"], b: Float[Array, "B D"]) -> Float[Array, "A B"]:
    """`|a_i - b_j|`; at 0 its gradient is 0."""
    return root(square_distances(a, b))


def root(square: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """The square root; at 0 its gradient is 0."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def row_means(values: Float[Array, "B B"], real: Float[Array, "B"]) -> Float[Array, "B"]:
    """By row the mean over real columns; its mean over real rows is that over real pairs."""
    return jnp.sum(values * real, axis=1) / jnp.maximum(jnp.sum(real), 1.0)
