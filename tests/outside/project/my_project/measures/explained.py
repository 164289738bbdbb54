"""Somebody else's measure: how much of the second layer the first tells linearly."""

import dataclasses

import jax.numpy as jnp

from fairkd_jax.representation import spectra


@dataclasses.dataclass(frozen=True)
class Explained(spectra.OfCovariances):
    """R^2 of least squares, over the examples themselves."""

    keeps = frozenset({"orthogonal", "isotropic_scale", "translation"})
    same = 1.0
    least = 3
    undefined = "the first layer has as many directions as there are examples, less one"

    def layer(self, covariance, n):
        """Its directions."""
        return spectra.spectrum(covariance, n)

    def across(self, a, b, cross):
        """Of unlike layers the order matters."""
        told = jnp.sum(spectra.dot(a.whitening().T, cross) ** 2) / jnp.sum(b.values)
        return jnp.where((a.rank > 0) & (b.rank > 0) & (a.rank < a.n - 1), told, jnp.nan)
