"""Focal loss (arXiv 1708.02002, eq. 4): what is already right weighs less, `(1 - p_y)^gamma CE`."""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import by_share, cross_entropy
from fairkd_jax.types import Array, Spec

TINY = 1e-30  # the slope of x^gamma at 0 is infinite for gamma below 1


def focal_loss(losses: Float[JaxArray, "B"], gamma: Array) -> Float[JaxArray, "B"]:
    """Of cross-entropies `l = -log p`: `(1 - e^-l)^gamma l`, the gradient through both factors."""
    return jnp.maximum(-jnp.expm1(-losses), TINY) ** gamma * losses


@struct.dataclass
class Focal(Debiaser):
    """The task loss; it reduces by the mean, without a class weight (the paper's alpha).

    The gradient goes through the weight, as in the paper. The code of self-debiasing (arXiv
    2009.12303) calls by this name another loss, of weights without gradient that sum to 1.
    """

    search = {"gamma": (0.5, 1.0, 2.0, 5.0)}

    gamma: Array = 1.0  # SubpopBench's; the paper's detector has 2

    def check(self, spec: Spec) -> None:
        """Raises ValueError for a negative `gamma`."""
        if not self.gamma >= 0:
            raise ValueError(f"focal: gamma = {self.gamma}, expected a number from 0 up")

    def task(self, outputs, batch, params, now):
        """Focal loss of the student by example, [B]."""
        logits = outputs["student"].logits
        return by_share(lambda y: focal_loss(cross_entropy(logits, y), self.gamma), batch)
