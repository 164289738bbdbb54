"""Maximum mean discrepancy between environments, the attributes (MMD, arXiv 1502.02791).

`mean_e R_e + weight * mean over pairs MMD^2(i, j)` of features, with the kernel `sum_k exp(-gamma_k
|x - x'|^2)` over seven gammas: DomainBed's form, the estimate with the diagonal (biased).
"""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax import geometry
from fairkd_jax.debias import environments
from fairkd_jax.debias.base import Debiaser, require_attributes
from fairkd_jax.types import Array, Spec

GAMMAS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)


def kernel(x: Float[JaxArray, "B D"]) -> Float[JaxArray, "B B"]:
    """Summed, not averaged, over the gammas, which magnify what a distance is wrong by.

    Squares less products would be a thousandth wrong between close examples.
    """
    distance = geometry.square_distances(x, x)
    return sum(jnp.exp(-gamma * distance) for gamma in GAMMAS)


@struct.dataclass
class MMD(Debiaser):
    """Features are what the head reads. Over the environments present in the batch."""

    sees_attributes = True
    couples_examples = True
    search = {"weight": (0.1, 1.0, 10.0)}

    weight: Array = 1.0

    def check(self, spec: Spec) -> None:
        """Raises ValueError for training examples of one attribute alone."""
        require_attributes(spec, "mmd")

    def __call__(self, terms, outputs, batch, params, now, key):
        """The mean risk and the penalty, which is 0 with one environment."""
        _, there, mean = environments.risks(terms.total, batch, now)
        member = environments.members(batch, now)
        x = jnp.where(batch["real"][:, None] > 0, outputs["student"].features, 0.0)
        mean_of = member / jnp.maximum(jnp.sum(member, axis=0), 1.0)
        away = mean_of - environments.average(mean_of.T, there)[:, None]
        # What `environments.variance` is of vectors, of means that only the kernel knows.
        squares = jnp.einsum("be,bc,ce->e", away, kernel(x), away, precision="highest")
        penalty = environments.mean_over_pairs(environments.average(squares, there), there)
        return mean + self.weight * penalty, now.memory, {"penalty": penalty}
