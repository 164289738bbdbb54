"""Class-balanced loss (arXiv 1901.05555, proposition 1): weights by the effective number.

`w_k = 1 / E_k`, scaled to sum to K, `E_k = (1 - beta^n_k) / (1 - beta)`, loss `mean(w_k l)`: beta 0
is no weighting, towards 1 it becomes inverse-frequency weighting.
"""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax.debias.base import Debiaser, require_unit
from fairkd_jax.debias.reweight import normalised
from fairkd_jax.losses import masked_mean
from fairkd_jax.types import Array, Spec


def effective_numbers(counts: Float[JaxArray, "K"], beta: Array) -> Float[JaxArray, "K"]:
    """`(1 - beta^n) / (1 - beta)`, precise where beta is near 1; for counts above 0."""
    log_beta = jnp.log1p(beta - 1.0)
    return jnp.expm1(counts * log_beta) / jnp.expm1(log_beta)


@struct.dataclass
class ClassBalanced(Debiaser):
    """The plain mean of weighted losses; only `by="group"` reads attributes.

    What has no training example weighs 0. SubpopBench (CBLoss) takes `1 - beta^n == 1` for that:
    above some 370,000 examples at the default beta this is so in floating point, and its largest
    group weighs 0. Here the count is looked at, so that group weighs as the paper has it.
    """

    search = {"beta": (0.9, 0.99, 0.999, 0.9999)}

    beta: Array = 0.9999
    by: str = struct.field(pytree_node=False, default="group")  # group | label

    @property
    def sees_attributes(self) -> bool:
        """Whether weights go by group."""
        return self.by == "group"

    def check(self, spec: Spec) -> None:
        """Raises UnknownName for `by`, ValueError for `beta` out of range."""
        require_unit(self.by, "class_balanced")
        if not 0 <= self.beta < 1:
            raise ValueError(
                f"class_balanced: beta = {self.beta}, expected a number from 0 up to, but not, 1; "
                "for weights of inverse frequency use reweight"
            )

    def init(self, spec, key):
        """Memory: the weights, by group or by label."""
        counts = spec.group_counts if self.by == "group" else spec.label_counts
        number = effective_numbers(jnp.maximum(counts, 1.0), self.beta)
        return {}, {"weights": normalised(jnp.where(counts > 0, 1.0 / number, 0.0))}

    def __call__(self, terms, outputs, batch, params, now, key):
        """`mean(w l)` over real examples: not divided by the sum of the weights."""
        weights = now.memory["weights"][batch[self.by]]
        return masked_mean(weights * terms.total, batch["real"]), now.memory, {}
