"""Measures that follow from covariances of two layers alone, so that sums over examples will do.

A covariance has rank r up to rounding: directions whose variance is below the largest times the
width times the unit of rounding are none, as in NumPy's `matrix_rank`. In float32 that leaves out
directions a hundred or so times smaller than the largest: a layer with smaller ones has fewer.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float, Shaped

from fairkd_jax.representation import kernels
from fairkd_jax.representation.cka import Moments, _dot, _einsum, _moved
from fairkd_jax.representation.measure import Measure
from fairkd_jax.types import Array


@struct.dataclass
class Spectrum:
    """A covariance's directions, most variance first."""

    vectors: Array  # [D, D], columns
    values: Array  # [D], sums of squares; 0 behind the rank
    n: Array  # [], examples

    @property
    def rank(self) -> Shaped[JaxArray, ""]:
        """How many directions vary; 0 where the covariance is not finite."""
        return jnp.sum(self.values > 0)

    def whitening(self) -> Float[JaxArray, "D D"]:
        """Features times this have covariance 1 in the first directions, and nothing else."""
        root = jnp.sqrt(jnp.where(self.values > 0, self.values, 1))
        return self.vectors * jnp.where(self.values > 0, 1 / root, 0)


def spectrum(covariance: Float[Array, "D D"], n: Shaped[Array, ""]) -> Spectrum:
    """The directions of a sum of squares of centred features of n examples."""
    finite = jnp.all(jnp.isfinite(covariance))
    values, vectors = jnp.linalg.eigh(jnp.where(finite, covariance, 0))
    values, vectors = values[::-1], vectors[:, ::-1]
    least = jnp.max(values) * len(values) * jnp.finfo(values.dtype).eps
    return Spectrum(vectors, jnp.where((values > least) & finite, values, 0), n)


def correlations(
    a: Spectrum, b: Spectrum, cross: Float[Array, "D1 D2"]
) -> tuple[Float[JaxArray, "D1 K"], Float[JaxArray, "K"], Float[JaxArray, "K D2"]]:
    """Canonical correlations, largest first, with the directions of each net, whitened."""
    inner = _einsum("ia,ij,jb->ab", a.whitening(), cross, b.whitening())
    known = jnp.all(jnp.isfinite(inner)) & (a.rank > 0) & (b.rank > 0)
    u, s, v = jnp.linalg.svd(jnp.where(known, inner, 0), full_matrices=False)
    return u, jnp.where(known, jnp.clip(s, 0, 1), jnp.nan), v


def nuclear_norm(matrix: Float[Array, "D1 D2"]) -> Float[JaxArray, ""]:
    """The sum of singular values; NaN of what is not finite."""
    finite = jnp.all(jnp.isfinite(matrix))
    values = jnp.linalg.svd(jnp.where(finite, matrix, 0), compute_uv=False)
    return jnp.where(finite, jnp.sum(values), jnp.nan)


@dataclasses.dataclass(frozen=True)
class OfCovariances(Measure):
    """A measure that is a function of both covariances and the one across."""

    streams: ClassVar[bool] = True

    @abc.abstractmethod
    def layer(self, covariance: Float[Array, "D D"], n: Shaped[Array, ""]) -> Any:
        """What is taken of a layer's own sum of squares of centred features."""

    @abc.abstractmethod
    def across(self, a: Any, b: Any, cross: Float[Array, "D1 D2"]) -> Float[JaxArray, ""]:
        """The measure, of what `layer` gave for each and of the sum of products across."""

    def relate(self, x: Float[Array, "n D"], mask: Float[Array, "n"]) -> Any:
        """Centred features themselves."""
        return kernels.centred(x, mask)

    def settle(self, related: Any, mask: Float[Array, "n"]) -> Any:
        """(features about the mean of these examples, what `layer` takes)."""
        n = jnp.sum(mask)
        mean = jnp.sum(related * mask[:, None], axis=0) / jnp.maximum(n, 1)
        x = (related - mean) * mask[:, None]
        return x, self.layer(_einsum("na,nb->ab", x, x), n)

    def pair(self, first: Any, second: Any, mask: Float[Array, "n"]) -> Float[JaxArray, ""]:
        """The measure of two layers."""
        (x, a), (y, b) = first, second
        return self.across(a, b, _einsum("na,nb->ab", x, y))

    def of_sums(self, sums: Moments) -> Float[JaxArray, ""]:
        """The measure of two layers, from their sums."""
        own, n = sums.sums, sums.sums["n"]
        own = _moved(own, {k: -own[k] / jnp.maximum(n, 1) for k in ("x", "y")})
        a, b = self.layer(own["x_x"], n), self.layer(own["y_y"], n)
        return self.across(a, b, own["x_y"])


def dot(a: Array, b: Array) -> JaxArray:
    """A product in full precision."""
    return _dot(a, b)
