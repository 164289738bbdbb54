"""Singular vector canonical correlation analysis, SVCCA (Raghu et al., arXiv 1706.05806).

Each layer keeps the fewest principal directions that hold `variance` of its variance; then the mean
of canonical correlations over as many as the smaller has. Where directions are nearly as many as
examples it tends to 1, for unrelated layers too: its null says by how much.
"""

import dataclasses

import jax.numpy as jnp

from fairkd_jax.representation import spectra


@dataclasses.dataclass(frozen=True)
class SVCCA(spectra.OfCovariances):
    """Canonical correlations of the directions with most variance, averaged."""

    variance: float = 0.99

    keeps = frozenset({"orthogonal", "isotropic_scale", "translation"})
    same = 1.0
    least = 3
    undefined = "a layer's features are not finite"

    def __post_init__(self):
        if not 0 < self.variance <= 1:
            raise ValueError(f"similarity.svcca.variance = {self.variance}: expected in (0, 1]")

    def layer(self, covariance, n):
        """The directions that are kept."""
        found = spectra.spectrum(covariance, n)
        total = jnp.sum(found.values)
        before = jnp.cumsum(found.values) - found.values
        kept = jnp.where(before < self.variance * total, found.values, 0)
        return found.replace(values=kept)

    def across(self, a, b, cross):
        """The mean over the smaller number of directions."""
        _, found, _ = spectra.correlations(a, b, cross)
        return jnp.sum(found) / jnp.minimum(a.rank, b.rank)
