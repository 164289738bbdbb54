"""Centred kernel nearest-neighbour alignment, CKNNA (Huh et al., arXiv 2405.07987, appendix A).

CKA of inner products that count only where each of two examples is among the `k` nearest of the
other's row in both layers. Rows have length 1 where `cosine`; unbiased leaves an example's product
with itself out. The authors' code adds 1e-6 to the denominator, which makes it hang on the scale of
features: `added`, 0 here. It may exceed 1. It needs all pairs of examples.
"""

import dataclasses

import jax.numpy as jnp

from fairkd_jax.representation import kernels
from fairkd_jax.representation.measure import Measure


@dataclasses.dataclass(frozen=True)
class CKNNA(Measure):
    """CKA of neighbours alone."""

    k: int = 10
    cosine: bool = True
    unbiased: bool = True
    added: float = 0.0  # to the denominator

    keeps = frozenset({"orthogonal", "isotropic_scale"})
    same = 1.0
    undefined = (
        "features of length 0 have no cosine, neighbours are as near as those that are none, or "
        "a layer's own term is not above 0"
    )

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f"similarity.cknna.k = {self.k}: expected at least 1")

    @property
    def least(self):
        """Each has k others, and the unbiased estimator four examples."""
        return max(self.k + 1, 4)

    def relate(self, x, mask):
        """(inner products, 1 where the column is near the row, the features' exponent)."""
        like, exponent = kernels.likeness(x, mask, cosine=self.cosine)
        return like, kernels.nearest(like, mask, self.k, itself=not self.unbiased), exponent

    def settle(self, related, mask):
        """The same with the layer's own term over these examples."""
        like, near, exponent = related
        own = kernels.hsic_of(like * near, like * near, mask, unbiased=self.unbiased)
        return like, near, jnp.where(own > 0, own, jnp.nan), exponent

    def pair(self, first, second, mask):
        """The ratio."""
        (k, near, own, i), (m, also, other, j) = first, second
        shared = near * also
        found = kernels.hsic_of(shared * k, shared * m, mask, unbiased=self.unbiased)
        added = jnp.ldexp(jnp.asarray(self.added, own.dtype), -2 * (i + j)) if self.added else 0
        return found / (jnp.sqrt(own) * jnp.sqrt(other) + added)
