"""LISA (arXiv 2201.00299): mixup of examples that differ in what must not matter.

With probability `p_sel`, one draw a batch, each example is mixed with one of the same label and
another attribute (intra-label), else with one of the same attribute and another label
(intra-domain): `x <- w x + (1 - w) x[partner]`, alike for one-hot labels, `w ~ Beta(alpha, alpha)`
by example.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Bool, Float, Int

from fairkd_jax.debias.base import Debiaser, require_attributes
from fairkd_jax.models.tape import Mix
from fairkd_jax.types import Array, Batch, Spec


def fits(batch: Batch, intra_label: Bool[JaxArray, ""]) -> Bool[JaxArray, "B B"]:
    """Where row j may be mixed into row i; padding fits nothing."""
    real = batch["real"] > 0
    same = {k: batch[k][:, None] == batch[k][None, :] for k in ("label", "attribute")}
    of_label, of_domain = same["label"] & ~same["attribute"], same["attribute"] & ~same["label"]
    return jnp.where(intra_label, of_label, of_domain) & real[:, None] & real[None, :]


def choose(fit: Bool[JaxArray, "B B"], uniform: Float[JaxArray, "B"]) -> Int[JaxArray, "B"]:
    """A row that fits, evenly drawn by numbers in [0, 1); the row itself where none does."""
    count = jnp.sum(fit, axis=1)
    number = jnp.minimum((uniform * count).astype(jnp.int32), count - 1)
    found = jnp.argmax(jnp.cumsum(fit, axis=1) > number[:, None], axis=1)
    return jnp.where(count > 0, found, jnp.arange(len(fit)))


@struct.dataclass
class LISA(Debiaser):
    """Mixes at one intermediate of every net, teachers too: "input" are pixels or embeddings.

    Texts differ in length, so "features" (what the head reads) suits them better. The authors pair
    groups of a group-balanced batch by position and drop what is left over; here each example draws
    its partner in the batch, and one that nothing fits stays as it is. CelebA's CutMix is not here.
    """

    sees_attributes = True
    couples_examples = True
    changes_inputs = True
    search = {"alpha": (0.5, 2.0), "p_sel": (0.2, 0.5, 0.8)}

    alpha: Array = 2.0
    p_sel: Array = 0.5  # probability of mixing within a label
    tap: str = struct.field(pytree_node=False, default="input")

    def check(self, spec: Spec) -> None:
        """Raises ValueError for one attribute alone, or an option out of range."""
        require_attributes(spec, "lisa")
        if not (self.alpha > 0 and 0 <= self.p_sel <= 1):
            raise ValueError(
                f"lisa: alpha = {self.alpha}, p_sel = {self.p_sel}; expected alpha above 0 and "
                "p_sel from 0 to 1"
            )

    def prepare(self, batch: Batch, now, key):
        """The batch with its partners' labels, and the edit that mixes the inputs."""
        weight_key, partner_key, kind_key = jax.random.split(key, 3)
        rank = jnp.cumsum(batch["real"] > 0) - 1  # draws go by it: padding changes none
        intra_label = jax.random.uniform(kind_key) < self.p_sel
        uniform = jax.random.uniform(partner_key, rank.shape)[rank]
        partner = choose(fits(batch, intra_label), uniform)
        weight = jax.random.beta(weight_key, self.alpha, self.alpha, rank.shape, jnp.float32)[rank]
        labels = {"partner_label": batch["label"][partner], "label_weight": weight}
        return batch | labels, {self.tap: Mix(partner, weight)}
