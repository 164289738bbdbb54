"""Debiased focal loss with frozen bias models (arXiv 1909.06321): `(1 - p_b(y))^gamma * l`.

The focus is on what the bias models get wrong, not, as in a focal loss, the net itself.
"""

from flax import struct

from fairkd_jax.debias import biased
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import masked_mean
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Array, Spec

JOINS = ("mean", "product")


@struct.dataclass
class DFL(biased.Biased, Debiaser):
    """The plain mean of the weighted losses: unlike `bias_reweight` not divided by the weights'."""

    search = {"gamma": (1.0, 2.0, 4.0)}

    gamma: Array = 2.0
    join: str = struct.field(pytree_node=False, default="mean")  # of several sources' p_b(y)

    def check(self, spec: Spec) -> None:
        """Raises UnknownName for an unknown join, ValueError for a negative gamma."""
        if self.join not in JOINS:
            raise UnknownName(self.join, "join of dfl:", JOINS)
        if self.gamma < 0:
            raise ValueError(f"dfl: gamma = {float(self.gamma):g}, expected a number from 0 up")

    def __call__(self, terms, outputs, batch, params, now, key):
        """`mean(w l)` over real examples."""
        weights = biased.doubt(self, batch, join=self.join) ** self.gamma
        loss = masked_mean(weights * terms.total, batch["real"])
        return loss, now.memory, {"mean_weight": masked_mean(weights, batch["real"])}
