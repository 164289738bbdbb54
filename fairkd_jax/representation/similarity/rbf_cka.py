"""CKA with a Gaussian kernel (Kornblith et al., arXiv 1905.00414, section 4 and appendix).

k(x, x') = exp(-|x - x'|^2 / (2 t^2 m)) with m the median of squared distances of all pairs of
examples, each with itself too, as in the authors' notebook; t is `bandwidth`. Leaving examples out
leaves m as it is. It needs all pairs of examples.
"""

import dataclasses

import jax.numpy as jnp

from fairkd_jax.representation import kernels
from fairkd_jax.representation.measure import Measure


@dataclasses.dataclass(frozen=True)
class RBFCKA(Measure):
    """Cosine of two centred kernel matrices."""

    bandwidth: float = 1.0  # a fraction of the median distance
    debiased: bool = True

    keeps = frozenset({"orthogonal", "isotropic_scale", "translation"})
    same = 1.0
    least = 4
    undefined = "half of all pairs of examples, or more, have equal features"

    def __post_init__(self):
        if not self.bandwidth > 0:
            raise ValueError(f"similarity.rbf_cka.bandwidth = {self.bandwidth}: expected above 0")

    def relate(self, x, mask):
        """The kernel of all pairs; NaN where the median distance is 0."""
        distances = kernels.squared_distances(kernels.centred(x, mask))
        scale = 2 * self.bandwidth**2 * kernels.median(distances, mask)
        return jnp.exp(-distances / jnp.where(scale > 0, scale, jnp.nan))

    def settle(self, related, mask):
        """Centred over these examples, of norm 1."""
        return kernels.unit(kernels.doubly_centred(related, mask, debiased=self.debiased))

    def pair(self, first, second, mask):
        """The cosine."""
        return kernels.inner(first, second)
