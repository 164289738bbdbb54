"""Generalised cross-entropy (arXiv 1805.07836): `(1 - p_y^q) / q` in the place of CE.

Its gradient is `p_y^q` times that of cross-entropy: what the net finds hard teaches less. Robust to
wrong labels, it leans on whatever is easy: with spurious attributes it makes a biased net (as in
LfF, arXiv 2007.02561), and is here to compare with, or to train one.
"""

from flax import struct

from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import by_share, generalized_cross_entropy
from fairkd_jax.types import Array, Spec


@struct.dataclass
class GCE(Debiaser):
    """The task loss; it reduces by the mean. LfF's code has `q` times this gradient."""

    search = {"q": (0.3, 0.5, 0.7, 0.9)}

    q: Array = 0.7  # towards 0 cross-entropy; 1: mean absolute error

    def check(self, spec: Spec) -> None:
        """Raises ValueError for `q` out of range."""
        if not 0 < self.q <= 1:
            raise ValueError(f"gce: q = {self.q}, expected a number above 0 and up to 1")

    def task(self, outputs, batch, params, now):
        """Generalised cross-entropy of the student by example, [B]."""
        logits = outputs["student"].logits
        return by_share(lambda y: generalized_cross_entropy(logits, y, self.q), batch)
