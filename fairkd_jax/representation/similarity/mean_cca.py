"""Mean canonical correlation (Hotelling 1936; as R_CCA in Kornblith et al., arXiv 1905.00414).

The mean over as many correlations as the layer of lower rank has directions; `squared`: of their
squares. Features are centred, which the notebook of that paper leaves out. It needs many more
examples than features: with fewer every correlation is 1, and it says so by NaN.
"""

import dataclasses

import jax.numpy as jnp

from fairkd_jax.representation import spectra
from fairkd_jax.representation.measure import INVARIANCES


@dataclasses.dataclass(frozen=True)
class MeanCCA(spectra.OfCovariances):
    """Canonical correlations, averaged."""

    squared: bool = False

    keeps = frozenset(INVARIANCES)
    same = 1.0
    least = 3
    undefined = "a layer has as many directions as there are examples, less one: all would be 1"

    def layer(self, covariance, n):
        """Its directions."""
        return spectra.spectrum(covariance, n)

    def across(self, a, b, cross):
        """The mean over the lower rank; all else is 0."""
        _, found, _ = spectra.correlations(a, b, cross)
        mean = jnp.sum(found**2 if self.squared else found) / jnp.minimum(a.rank, b.rank)
        return jnp.where(jnp.maximum(a.rank, b.rank) < a.n - 1, mean, jnp.nan)
