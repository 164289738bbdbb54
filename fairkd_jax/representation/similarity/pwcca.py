"""Projection weighted CCA, PWCCA (Morcos et al., arXiv 1806.05759, eq. 2).

Canonical correlations weighed by sum_j |<h_i, x_j>|: how much of the features x_j of the layer of
lower rank (of equal ones, the first) lies along its canonical direction h_i. The sum is over single
features, so a rotation of that layer changes it. As the paper defines it: the authors' code takes
other directions.
"""

import dataclasses

import jax.numpy as jnp

from fairkd_jax.representation import spectra


@dataclasses.dataclass(frozen=True)
class PWCCA(spectra.OfCovariances):
    """A weighted mean of canonical correlations."""

    keeps = frozenset({"isotropic_scale", "translation"})
    same = 1.0
    least = 3
    undefined = "a layer has as many directions as there are examples, less one: all would be 1"

    def layer(self, covariance, n):
        """Its directions."""
        return spectra.spectrum(covariance, n)

    def across(self, a, b, cross):
        """Weights of the layer of lower rank."""
        u, found, v = spectra.correlations(a, b, cross)
        # <h_i, x_j>: covariance times whitening times u, and a covariance is vectors, values
        first, second = (
            jnp.sum(jnp.abs(spectra.dot(s.vectors * jnp.sqrt(s.values), w)), axis=0)
            for s, w in ((a, u), (b, v.T))
        )
        weights = jnp.where(a.rank <= b.rank, first, second)
        weights = jnp.where(jnp.arange(len(found)) < jnp.minimum(a.rank, b.rank), weights, 0)
        mean = jnp.sum(weights * found) / jnp.sum(weights)
        return jnp.where(jnp.maximum(a.rank, b.rank) < a.n - 1, mean, jnp.nan)
