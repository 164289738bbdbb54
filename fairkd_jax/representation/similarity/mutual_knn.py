"""Mutual nearest neighbours (Huh et al., arXiv 2405.07987, appendix A).

The share of an example's `k` nearest neighbours in one layer that are so in the other too, averaged
over examples. `score` "overlap" |A and B| / k, "jaccard" |A and B| / |A or B|, or "cycle": is an
example among the neighbours, in the first layer, of one of its neighbours in the second? Near is by
cosine, or by inner products as they are where `cosine` is false. Who is near is asked among all
examples that are compared. It needs all pairs of examples.
"""

import dataclasses

import jax.numpy as jnp

from fairkd_jax.registry import UnknownName
from fairkd_jax.representation import kernels
from fairkd_jax.representation.cka import _einsum
from fairkd_jax.representation.measure import Measure

SCORES = ("overlap", "jaccard", "cycle")


@dataclasses.dataclass(frozen=True)
class MutualKNN(Measure):
    """Overlap of neighbourhoods."""

    k: int = 10
    cosine: bool = True
    score: str = "overlap"

    keeps = frozenset({"orthogonal", "isotropic_scale"})
    same = 1.0
    undefined = (
        "an example has fewer than k others, features of length 0 have no cosine, or neighbours "
        "are as near as those that are none"
    )

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f"similarity.mutual_knn.k = {self.k}: expected at least 1")
        if self.score not in SCORES:
            raise UnknownName(self.score, "similarity.mutual_knn.score", SCORES)

    @property
    def least(self):
        """Each has k others."""
        return self.k + 1

    def relate(self, x, mask):
        """1 where the column is near the row."""
        like, _ = kernels.likeness(x, mask, cosine=self.cosine)
        return kernels.nearest(like, mask, self.k)

    def settle(self, related, mask):
        """Those of these examples."""
        return related * mask[:, None]

    def pair(self, first, second, mask):
        """The mean over examples."""
        if self.score == "cycle":
            found = _einsum("mn,nm->n", first, second) > 0
            known = jnp.isfinite(jnp.sum(first) + jnp.sum(second))
            return jnp.where(known, jnp.sum(found * mask) / jnp.sum(mask), jnp.nan)
        shared = _einsum("nm,nm->n", first, second)
        other = self.k if self.score == "overlap" else 2 * self.k - shared
        return jnp.sum(shared / other) / jnp.sum(mask)
