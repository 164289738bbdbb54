"""Predictive group invariance (PGI, Ahmed et al., ICLR 2021): alike answers in all environments.

`mean loss + weight * sum_c KL(P_c0 || P_c1)`, `P_ce` the mean of softmax(z) over the examples of
class c in environment e, the attribute. Of more than two environments it is the mean over pairs
i < j that have the class in the batch, which is ours.

The authors' code (Faruk-Ahmed/predictive_group_invariance) differs: its environments are inferred,
it takes the divergence from the environment of larger loss to the other, C times smaller (a mean
over outputs), of the cross-entropy the mean of both environments, and gives the penalty's gradient
to the features alone. SpuCo's code is wrong: it counts the last class only, and probabilities in
the place of their logarithms.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float, Int

from fairkd_jax.debias.base import Debiaser, require_attributes
from fairkd_jax.losses import masked_mean
from fairkd_jax.types import Array, Spec


def log_mean_probs(
    logits: Float[JaxArray, "B C"],
    group: Int[JaxArray, "B"],
    real: Float[JaxArray, "B"],
    num_groups: int,
) -> tuple[Float[JaxArray, "G C"], Float[JaxArray, "G"]]:
    """(log of the mean of softmax(logits) by group, 1 where the batch has one; else anything)."""
    there = real[:, None] > 0
    log_p = jax.nn.log_softmax(jnp.where(there, logits, 0.0))
    member = jax.nn.one_hot(group, num_groups, dtype=bool) & there
    rows = jnp.sum(member, axis=0)
    summed = member | (rows == 0)  # of a group that is not there any rows: finite, and not used
    total = jax.nn.logsumexp(log_p[:, None, :], axis=0, where=summed[:, :, None])
    return total - jnp.log(jnp.maximum(rows, 1))[:, None], (rows > 0).astype(log_p.dtype)


def divergences(
    log_p: Float[JaxArray, "L E C"], there: Float[JaxArray, "L E"]
) -> Float[JaxArray, "L"]:
    """By label the mean of `KL(P_i || P_j)` over pairs i < j of environments; 0 without any."""
    gap = log_p[:, :, None] - log_p[:, None, :]
    kl = jnp.sum(jnp.exp(log_p)[:, :, None] * gap, axis=-1)
    pairs = jnp.triu(there[:, :, None] * there[:, None, :], k=1)
    return jnp.sum(kl * pairs, axis=(1, 2)) / jnp.maximum(jnp.sum(pairs, axis=(1, 2)), 1.0)


@struct.dataclass
class PGI(Debiaser):
    """The penalty grows in over the first steps, in proportion to their number."""

    sees_attributes = True
    couples_examples = True
    search = {"weight": (0.5, 5.0, 50.0)}

    weight: Array = 5.0  # about what the authors give coloured digits: 50, C = 9 times weaker
    ramp_share: Array = 0.2  # of the steps: how long the weight grows to what it is

    def check(self, spec: Spec) -> None:
        """Raises ValueError for one attribute alone, or a share out of range."""
        require_attributes(spec, "pgi")
        if not 0 <= self.ramp_share <= 1:
            raise ValueError(f"pgi: ramp_share = {self.ramp_share}, expected from 0 to 1")

    def __call__(self, terms, outputs, batch, params, now, key):
        """The mean loss and the penalty of the classes that several environments have."""
        groups, shape = now.group_counts.shape[0], (-1, now.num_attributes)
        log_p, there = log_mean_probs(
            outputs["student"].logits, batch["group"], batch["real"], groups
        )
        by_label = divergences(log_p.reshape(*shape, log_p.shape[1]), there.reshape(shape))
        penalty = jnp.sum(by_label)
        ramp = jnp.minimum((now.step + 1) / jnp.maximum(self.ramp_share * now.steps, 1.0), 1.0)
        loss = masked_mean(terms.total, batch["real"]) + self.weight * ramp * penalty
        return loss, now.memory, {"penalty": penalty, "penalty_weight": self.weight * ramp}
