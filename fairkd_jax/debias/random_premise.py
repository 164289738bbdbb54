"""Some hypotheses with the premise of another pair, to unlearn them (method 2 of arXiv 1907.04380).

With probability `rate` an example's loss is `CE(z(other premise, hypothesis), y)` instead: the head
descends on it, the gradient of what the head reads is multiplied by `-strength`, and that of the
premise by 0.

A step costs 1.7x that of ERM (processor time, BERT tiny, 32 x 32 tokens): the student passes twice
over all rows, since which are drawn is not known when the step is compiled.
"""

import jax
import jax.numpy as jnp
from flax import struct

from fairkd_jax.debias.altered import check_pairs, draws, in_hypothesis, other_premise
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.debias.dann import reverse_gradient
from fairkd_jax.debias.mixup import permute_real
from fairkd_jax.losses import masked_mean, task_loss
from fairkd_jax.types import Array, Pass, Spec


@struct.dataclass
class Reverse:
    """The gradient of an intermediate [B, T, ...] times `-strength` where `mask` is 1, else 0."""

    strength: Array
    mask: Array = 1.0  # [B, T]

    def __call__(self, x: jax.Array) -> jax.Array:
        mask = jnp.asarray(self.mask, x.dtype)
        mask = mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim) * (mask.ndim > 0))
        return reverse_gradient(x, jnp.asarray(self.strength, x.dtype) * mask)


@struct.dataclass
class RandomPremise(Debiaser):
    """Each example is drawn by itself; the authors' code draws once for a whole batch.

    There the two texts are encoded apart, so the encoder learns nothing from the other premise.
    Here one net reads both: what stops at the premise is the gradient of its embeddings, while the
    blocks, which learn the reverse, see it as they see the hypothesis. Distillation leaves out what
    was drawn.
    """

    couples_examples = True
    search = {"rate": (0.05, 0.1), "strength": (0.05, 0.1)}

    rate: Array = 0.1  # the paper: .05 to .1
    strength: Array = 0.05  # of the reversed gradient (lambda)
    hypothesis: str = struct.field(pytree_node=False, default="second")  # which text: or "first"

    def check(self, spec: Spec) -> None:
        """Raises ValueError for a rate out of range, or texts without a hypothesis."""
        if not 0 <= self.rate <= 1:
            raise ValueError(f"random_premise: rate = {self.rate}, expected a share from 0 to 1")
        check_pairs(spec, "random_premise", self.hypothesis)

    def passes(self, inputs, outputs, batch, now, key):
        """The student as it is, and on the hypotheses with other premises, its gradient edited."""
        partner = permute_real(batch["real"], key)
        others = other_premise(inputs, partner, self.hypothesis)
        hypothesis = in_hypothesis(others, self.hypothesis)
        edits = {"input": Reverse(-1.0, hypothesis), "features": Reverse(self.strength)}
        return {"student": Pass(inputs), "student/random": Pass(others, edits)}

    def __call__(self, terms, outputs, batch, params, now, key):
        """The mean of the losses, where drawn those with another premise."""
        drawn = draws(batch["real"], key) < self.rate
        random = task_loss(outputs["student/random"].logits, batch)
        loss = masked_mean(jnp.where(drawn, random, terms.total), batch["real"])
        return loss, now.memory, {"random_loss": masked_mean(random, batch["real"])}
