"""Representational similarity analysis, RSA (Kriegeskorte et al. 2008, Front. Syst. Neurosci. 2:4).

Distances of all pairs of examples in one layer against those in the other: `distance` "correlation"
(1 less the correlation of two examples over features) or "euclidean"; `by` "spearman" (mean ranks
of equal distances), "pearson", "cosine", or "rho_a" (Spearman's, expected under random ranks of
equal distances). Leaving examples out leaves ranks as they are. It needs all pairs of examples.
"""

import dataclasses

import jax.numpy as jnp

from fairkd_jax.registry import UnknownName
from fairkd_jax.representation import kernels
from fairkd_jax.representation.measure import Measure

DISTANCES = ("correlation", "euclidean")
BY = ("spearman", "pearson", "cosine", "rho_a")


@dataclasses.dataclass(frozen=True)
class RSA(Measure):
    """Correlation of two matrices of distances."""

    distance: str = "correlation"
    by: str = "spearman"

    same = 1.0
    least = 4
    undefined = "an example's features are all equal, or all pairs of examples are as far apart"

    def __post_init__(self):
        if self.distance not in DISTANCES:
            raise UnknownName(self.distance, "similarity.rsa.distance", DISTANCES)
        if self.by not in BY:
            raise UnknownName(self.by, "similarity.rsa.by", BY)

    @property
    def keeps(self):
        """A correlation over features hangs on the axes and on where 0 is."""
        euclidean = {"orthogonal", "translation"} if self.distance == "euclidean" else set()
        return frozenset({"isotropic_scale", *euclidean})

    def relate(self, x, mask):
        """Distances of all pairs i < j, or their ranks, 0 elsewhere."""
        if self.distance == "euclidean":
            found = jnp.sqrt(kernels.squared_distances(kernels.centred(x, mask)))
        else:
            known = kernels.varies(x, mask)
            x = x.astype(mask.dtype)
            x = kernels.centred(x.T, jnp.ones(x.shape[1], mask.dtype)).T  # each example by itself
            length = jnp.sqrt(jnp.sum(x**2, axis=1, keepdims=True))
            x = x / jnp.where(length > 0, length, jnp.nan)
            found = jnp.where(known, 1 - kernels.products(x), jnp.nan)
        there = jnp.triu(kernels.both(mask), 1) > 0
        broken = jnp.any(jnp.isnan(found) & there)
        if self.by in ("spearman", "rho_a"):
            found = kernels.ranks(found.ravel(), there.ravel()).reshape(found.shape)
        return jnp.where(broken, jnp.nan, jnp.where(there, found, 0))

    def settle(self, related, mask):
        """Of pairs of these examples, about their mean, of norm 1."""
        there = jnp.triu(kernels.both(mask), 1)
        pairs = jnp.sum(there)
        if self.by == "cosine":
            return kernels.unit(related * there)
        found = (related - jnp.sum(related * there) / jnp.maximum(pairs, 1)) * there
        if self.by == "rho_a":
            found = jnp.where(jnp.sum(found**2) > 0, found, jnp.nan)
            return found / jnp.sqrt((pairs**3 - pairs) / 12)
        return kernels.unit(found)

    def pair(self, first, second, mask):
        """Their correlation."""
        return kernels.inner(first, second)
