"""Mixup: each example is mixed with another one, inputs and labels alike (arXiv 1710.09412).

`x <- w x + (1 - w) x[partner]`, the same for one-hot labels, one `w ~ Beta(alpha, alpha)` a batch.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float, Int

from fairkd_jax.debias.base import Debiaser
from fairkd_jax.models.tape import Mix
from fairkd_jax.types import Array, Batch, Spec


def permute_real(real: Float[JaxArray, "B"], key: JaxArray) -> Int[JaxArray, "B"]:
    """A random permutation of the real rows; every padding row is its own partner.

    Draws go by rank among the real rows, so padding does not change who meets whom.
    """
    rank = jnp.cumsum(real > 0) - 1
    scores = jnp.where(real > 0, jax.random.uniform(key, real.shape)[rank], jnp.inf)
    order = jnp.argsort(scores)  # its first rows are the real ones, shuffled
    return jnp.where(real > 0, order[rank], jnp.arange(real.shape[0]))


@struct.dataclass
class Mixup(Debiaser):
    """Mixes at one intermediate of every net, teachers too: "input" are pixels or embeddings.

    Texts differ in length, so "features" (what the head reads) suits them better.
    """

    couples_examples = True
    changes_inputs = True
    search = {"alpha": (0.1, 0.2, 0.4, 1.0)}

    alpha: Array = 0.2
    tap: str = struct.field(pytree_node=False, default="input")

    def check(self, spec: Spec) -> None:
        """Raises ValueError for an `alpha` that is not positive."""
        if not self.alpha > 0:
            raise ValueError(f"mixup: alpha = {self.alpha}, expected a number above 0")

    def prepare(self, batch: Batch, now, key):
        """The batch with its partners' labels, and the edit that mixes the inputs."""
        weight_key, partner_key = jax.random.split(key)
        drawn = jax.random.beta(weight_key, self.alpha, self.alpha, dtype=jnp.float32)
        weight = jnp.full(batch["real"].shape, drawn)
        partner = permute_real(batch["real"], partner_key)
        labels = {"partner_label": batch["label"][partner], "label_weight": weight}
        return batch | labels, {self.tap: Mix(partner, weight)}
