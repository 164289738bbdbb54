"""Label-distribution-aware margins (LDAM, arXiv 1906.07413): rare classes need larger ones.

`CE(s (z - m_y at y), y)` with `m_j` proportional to `n_j^(-1/4)`, the largest of them `max_m`.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import by_share, cross_entropy
from fairkd_jax.types import Array, Spec


def margins(counts: Float[JaxArray, "C"], max_m: Array) -> Float[JaxArray, "C"]:
    """`n^(-1/4)` scaled to `max_m` at most; 0 for a class without examples."""
    rarity = jnp.where(counts > 0, jnp.maximum(counts, 1.0) ** -0.25, 0.0)
    return max_m * rarity / jnp.max(rarity)


@struct.dataclass
class LDAM(Debiaser):
    """The task loss; it reduces by the mean, without the paper's deferred reweighting.

    The logits are the net's own, as SubpopBench has it. The paper takes cosines of normalised
    features and weights, to which its scale belongs: on plain logits it makes the loss very steep.
    """

    search = {"max_m": (0.1, 0.3, 0.5), "scale": (10.0, 30.0)}

    max_m: Array = 0.5  # of the rarest class
    scale: Array = 30.0  # of the logits (s)

    def check(self, spec: Spec) -> None:
        """Raises ValueError for a negative margin, or a scale that is not positive."""
        if not (self.max_m >= 0 and self.scale > 0):
            raise ValueError(
                f"ldam: max_m = {self.max_m}, scale = {self.scale}; expected a margin from 0 up "
                "and a scale above 0"
            )

    def task(self, outputs, batch, params, now):
        """Cross-entropy behind the label's margin by example, [B]."""
        logits = outputs["student"].logits
        margin = margins(now.label_counts, self.max_m)

        def loss(label):
            behind = margin[label][:, None] * jax.nn.one_hot(label, logits.shape[1])
            return cross_entropy(self.scale * (logits - behind), label)

        return by_share(loss, batch)
