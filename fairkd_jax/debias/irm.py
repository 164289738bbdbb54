"""Invariant risk minimisation, IRMv1 (arXiv 1907.02893, section 3.1); attributes are environments.

Penalty of an environment: the squared gradient of its risk in a scale `s` of the logits at s = 1,
estimated without bias as the product of the gradients on the two halves of its examples.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float, Int

from fairkd_jax.debias import environments
from fairkd_jax.debias.base import Debiaser, require_attributes
from fairkd_jax.losses import group_means, masked_mean
from fairkd_jax.types import Array, Spec


def scale_gradient(
    logits: Float[JaxArray, "B C"], label: Int[JaxArray, "B"]
) -> Float[JaxArray, "B"]:
    """`d/ds CE(s logits, label)` at s = 1: the expected logit minus the label's."""
    expected = jnp.sum(jax.nn.softmax(logits) * logits, axis=1)
    return expected - jnp.take_along_axis(logits, label[:, None], axis=1)[:, 0]


def half_of_environment(
    environment: Int[JaxArray, "B"], real: Float[JaxArray, "B"], num_environments: int
) -> Int[JaxArray, "B"]:
    """0 for the first, third ... real example of an environment in the batch, 1 for others."""
    member = jax.nn.one_hot(environment, num_environments, dtype=jnp.int32)
    rank = jnp.cumsum(member * (real > 0)[:, None], axis=0) - 1
    return jnp.sum(rank * member, axis=1) % 2


@struct.dataclass
class IRM(Debiaser):
    """`mean_e R_e + weight * mean_e penalty_e` over the environments present in the batch.

    `R_e` is the mean of whatever loss arrives; the penalty is of the task's cross-entropy with the
    batch's labels. DomainBed, whose form this is, resets Adam when annealing ends; here it runs on.
    """

    sees_attributes = True
    couples_examples = True
    search = {"weight": (1.0, 10.0, 100.0), "anneal_steps": (20, 100)}

    weight: Array = 100.0
    anneal_steps: Array = 500  # the weight is 1 before this step

    def check(self, spec: Spec) -> None:
        """Raises ValueError for training examples of one attribute alone."""
        require_attributes(spec, "irm")

    def init(self, spec, key):
        """Memory: each environment's penalty in the last step."""
        return {}, {"penalties": jnp.zeros(spec.num_attributes, jnp.float32)}

    def __call__(self, terms, outputs, batch, params, now, key):
        """The penalty is 0 for an environment with fewer than two examples in the batch."""
        environment, real, count = batch["attribute"], batch["real"], now.num_attributes
        _, there, risk = environments.risks(terms.total, batch, now)

        slopes = scale_gradient(outputs["student"].logits, batch["label"])
        half = half_of_environment(environment, real, count)
        halves, _ = group_means(slopes, 2 * environment + half, real, 2 * count)
        penalties = halves[0::2] * halves[1::2]

        penalty = masked_mean(penalties, there)
        weight = jnp.where(now.step < self.anneal_steps, 1.0, self.weight)
        loss = risk + weight * penalty
        last = jax.lax.stop_gradient(penalties).astype(now.memory["penalties"].dtype)
        return loss, {"penalties": last}, {"penalty": penalty, "penalty_weight": weight}
