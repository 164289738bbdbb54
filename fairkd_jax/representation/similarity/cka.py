"""Linear centred kernel alignment (Kornblith et al., arXiv 1905.00414, eq. 2).

Debiased as in `representation/cka.py`, where its three forms are: the biased one tends to 1 as
width over examples grows, for unrelated features too, so nets of unlike width need the other.
"""

import dataclasses

from fairkd_jax.representation import kernels
from fairkd_jax.representation.measure import Measure


@dataclasses.dataclass(frozen=True)
class CKA(Measure):
    """Cosine of two centred Gram matrices."""

    debiased: bool = True

    keeps = frozenset({"orthogonal", "isotropic_scale", "translation"})
    same = 1.0
    least = 4
    undefined = "what a layer says of pairs of examples is no more than rounding"
    streams = True

    def relate(self, x, mask):
        """Inner products of centred features."""
        return kernels.products(kernels.centred(x, mask))

    def settle(self, related, mask):
        """Centred over these examples, of norm 1."""
        return kernels.unit(kernels.doubly_centred(related, mask, debiased=self.debiased))

    def pair(self, first, second, mask):
        """The cosine; negative values of the debiased form are no fault."""
        return kernels.inner(first, second)

    def of_sums(self, sums):
        """The feature form of both estimators."""
        return sums.cka(debiased=self.debiased)
