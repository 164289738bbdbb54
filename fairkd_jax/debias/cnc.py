"""Correct-n-contrast (arXiv 2203.01517): classes pulled together across what an ERM net answers.

`strength L_con + (1 - strength) mean(l)`, with L_con of equation 4: for an anchor the mean over its
positives p of `-log(e_p / (sum_n e_n + sum_p' e_p'))`, `e = exp(cos(f_anchor, f) / temperature)` of
what the head reads. Positives have the anchor's class and another answer of the ERM net, negatives
another class and the anchor's answer; all positives stand below, as in the authors' code. (SpuCo's
has the sign of the contrastive term reversed.)
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float, Int

from fairkd_jax import geometry
from fairkd_jax.config import Stage
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import masked_mean, of_rows
from fairkd_jax.types import Array, Spec


def contrastive(
    features: Float[JaxArray, "B D"],
    label: Int[JaxArray, "B"],
    answer: Int[JaxArray, "B"],
    real: Float[JaxArray, "B"],
    temperature: Array,
) -> tuple[Float[JaxArray, "B"], Float[JaxArray, "B"]]:
    """(L_con by anchor, 1 for a row that is one: it has positives and negatives in the batch)."""
    features = geometry.unit(of_rows(features, real))
    alike = geometry.products(features, features) / temperature
    both = (real[:, None] * real) > 0
    same_class, same_answer = label[:, None] == label, answer[:, None] == answer
    positive = both & same_class & ~same_answer
    negative = both & ~same_class & same_answer
    anchor = jnp.any(positive, axis=1) & jnp.any(negative, axis=1)
    below = positive | negative | ~anchor[:, None]  # of no row nothing
    lost = jax.nn.logsumexp(jnp.where(below, alike, -jnp.inf), axis=1, keepdims=True) - alike
    count = jnp.maximum(jnp.sum(positive, axis=1), 1)
    return jnp.sum(jnp.where(positive, lost, 0), axis=1) / count, anchor.astype(real.dtype)


@struct.dataclass
class CnC(Debiaser):
    """Every row of the batch is an anchor that has both positives and negatives in it.

    The authors draw batches around anchors, with as many positives and negatives of the whole
    training set; here both are those that the batch happens to have, so it should be large.
    """

    couples_examples = True
    tables = ("answers",)
    search = {"strength": (0.25, 0.5, 0.75), "temperature": (0.05, 0.1, 0.2)}

    strength: Array = 0.75  # of the contrastive loss (lambda)
    temperature: Array = 0.1  # the authors' choice for Waterbirds; .05 for CelebA
    reference_share: Array = 0.2  # of the steps: how long the ERM net trains

    def check(self, spec: Spec) -> None:
        """Raises ValueError for numbers that cannot be."""
        if not 0 <= self.strength <= 1 or not self.temperature > 0:
            raise ValueError(
                f"cnc: strength = {self.strength}, temperature = {self.temperature}, expected a "
                "share and a number above 0"
            )

    def stages(self, base: Stage) -> Stage:
        """A first net by ERM without a teacher; its answers; the base, reading them."""
        return base.hang(answers=base.first_net(self.reference_share).asked("logits"))

    def __call__(self, terms, outputs, batch, params, now, key):
        """Without an anchor in the batch the contrastive loss is 0."""
        answer = jnp.argmax(batch["tables"]["answers"]["logits"], axis=1)
        lost, anchor = contrastive(
            outputs["student"].features, batch["label"], answer, batch["real"], self.temperature
        )
        apart = masked_mean(lost, anchor)
        loss = self.strength * apart
        loss += (1 - self.strength) * masked_mean(terms.total, batch["real"])
        anchors = masked_mean(anchor, batch["real"])
        return loss, now.memory, {"contrastive_loss": apart, "anchors": anchors}
