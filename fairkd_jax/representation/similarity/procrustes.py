"""Orthogonal Procrustes distance (Schönemann 1966; between layers, Ding et al., arXiv 2108.01661).

The least distance over rotations of one layer onto the other, sqrt(|X|^2 + |Y|^2 - 2 |X'Y|_*) with
the nuclear norm; of features that are centred and, where `normalised`, of norm 1: from 0 to the
root of 2. Narrower layers are as if padded with zeros. Ding et al. print its square.
"""

import dataclasses

import jax.numpy as jnp

from fairkd_jax.representation import cka, spectra


@dataclasses.dataclass(frozen=True)
class Procrustes(spectra.OfCovariances):
    """A distance: 0 says the same."""

    normalised: bool = True

    same = 0.0
    least = 2
    undefined = "a layer's features are not finite"

    @property
    def keeps(self):
        """Of norm 1 it does not see scale either."""
        kept = {"orthogonal", "translation"}
        return frozenset(kept | ({"isotropic_scale"} if self.normalised else set()))

    def relate(self, x, mask):
        """Centred features; where their size counts, as large as they are."""
        if self.normalised:
            return super().relate(x, mask)
        return cka._shift(x, mask, cka._location_of(x, mask))

    def layer(self, covariance, n):
        """The square of its norm."""
        square = jnp.trace(covariance)
        return jnp.where(square > 0, square, jnp.nan)

    def across(self, a, b, cross):
        """The distance; what rounding makes negative is 0."""
        nuclear = spectra.nuclear_norm(cross)
        if not self.normalised:
            return jnp.sqrt(jnp.maximum(a + b - 2 * nuclear, 0))
        return jnp.sqrt(jnp.maximum(2 - 2 * nuclear / jnp.sqrt(a) / jnp.sqrt(b), 0))

    def of_sums(self, sums):
        """Sums hold features divided by powers of two: the distance of these, or of all."""
        if self.normalised:
            return super().of_sums(sums)
        by = {k: jnp.zeros_like(v) for k, v in sums.exponent.items()}
        return super().of_sums(cka.Moments(sums.location, by, sums._at(sums.location, by)))
