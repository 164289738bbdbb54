"""Angular Procrustes distance (Williams et al., arXiv 2110.14739, eq. 9): a metric between layers.

The angle arccos |X'Y|_* between centred features of norm 1 after the best rotation, from 0 to pi/2.
"""

import dataclasses

import jax.numpy as jnp

from fairkd_jax.representation import spectra


@dataclasses.dataclass(frozen=True)
class Angular(spectra.OfCovariances):
    """A distance in radians: 0 says the same."""

    keeps = frozenset({"orthogonal", "isotropic_scale", "translation"})
    same = 0.0
    least = 2
    undefined = "a layer's features are not finite"

    def layer(self, covariance, n):
        """The square of its norm."""
        square = jnp.trace(covariance)
        return jnp.where(square > 0, square, jnp.nan)

    def across(self, a, b, cross):
        """The angle; a cosine above 1 is rounding."""
        cosine = spectra.nuclear_norm(cross) / jnp.sqrt(a) / jnp.sqrt(b)
        return jnp.arccos(jnp.minimum(cosine, 1))
