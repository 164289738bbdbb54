"""Logit adjustment in training (arXiv 2007.07314, eq. 10): `CE(z + tau log prior, y)`.

The net predicts by `z`, from which the prior has been taken. At tau 1, by label, it is the balanced
softmax (arXiv 2007.10740). By group the prior of class c for an example of attribute a is that of
the group, `p(c, a)`. The form after training predicts by `z - tau log prior` of a plain net.
"""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax.debias.base import Debiaser, require_unit
from fairkd_jax.losses import task_loss
from fairkd_jax.types import Array, Spec


def log_prior(counts: Float[JaxArray, "K"]) -> Float[JaxArray, "K"]:
    """Logarithms of the shares; what was never counted is taken as counted once."""
    counts = jnp.maximum(counts, 1.0)
    return jnp.log(counts) - jnp.log(jnp.sum(counts))


@struct.dataclass
class LogitAdjustment(Debiaser):
    """The task loss; it reduces by the mean. Only `by="group"` reads attributes.

    Priors are those of the training split, whatever sampler draws from it.
    """

    search = {"tau": (0.5, 1.0, 2.0)}

    tau: Array = 1.0
    by: str = struct.field(pytree_node=False, default="label")  # group | label

    @property
    def sees_attributes(self) -> bool:
        """Whether the prior is that of groups."""
        return self.by == "group"

    def check(self, spec: Spec) -> None:
        """Raises UnknownName for `by`."""
        require_unit(self.by, "logit_adjustment")

    def task(self, outputs, batch, params, now):
        """Cross-entropy of the adjusted logits by example, [B]."""
        if self.by == "group":
            by_attribute = log_prior(now.group_counts).reshape(-1, now.num_attributes).T
            prior = by_attribute[batch["attribute"]]
        else:
            prior = log_prior(now.label_counts)
        return task_loss(outputs["student"].logits + self.tau * prior, batch)
