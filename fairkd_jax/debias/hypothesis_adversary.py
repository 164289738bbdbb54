"""An adversary that reads the label from the hypothesis alone (method 1 of arXiv 1907.04380).

`mean loss + loss_weight CE(g(h), y)`: the classifier g descends on its loss, whose gradient is
multiplied by `-strength` where it reaches what the student makes of the hypothesis, h.

A step costs 1.8x that of ERM (processor time, BERT tiny, 32 x 32 tokens): the student passes twice,
over both texts and over the hypothesis.
"""

import jax
import jax.numpy as jnp
from flax import struct

from fairkd_jax.debias.altered import check_pairs, without_premise
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.debias.dann import dense_layers, discriminate, reverse_gradient
from fairkd_jax.losses import masked_mean, task_loss
from fairkd_jax.types import Array, Pass, Spec


@struct.dataclass
class HypothesisAdversary(Debiaser):
    """The paper encodes the two texts apart, and its h is also what the student's head reads.

    Here one net reads both at once, so h are the features of a second pass, in which the premise is
    masked. The first token of a row stays: [CLS] of BERT; the premise's own first one in T5, which
    only its "sequence" readout looks at. Classifier and student share one optimizer; the code has
    two. `loss_weight` and `strength` are the paper's for MNLI matched; for SNLI they are .1 and .2.
    """

    search = {"loss_weight": (0.1, 0.4, 1.0), "strength": (0.05, 0.1, 0.2)}

    loss_weight: Array = 0.4  # of the classifier's loss (lambda_loss)
    strength: Array = 0.1  # of the reversed gradient (lambda_enc)
    hypothesis: str = struct.field(pytree_node=False, default="second")  # which text: or "first"
    width: int = struct.field(pytree_node=False, default=512)  # of the hidden layers
    depth: int = struct.field(pytree_node=False, default=3)  # dense layers
    nonlinear: bool = struct.field(pytree_node=False, default=False)  # tanh between them

    def check(self, spec: Spec) -> None:
        """Raises ValueError for a classifier without layers, or texts without a hypothesis."""
        if self.depth < 1 or self.width < 1:
            raise ValueError(
                f"hypothesis_adversary: depth = {self.depth}, width = {self.width}; both from 1 on"
            )
        check_pairs(spec, "hypothesis_adversary", self.hypothesis)

    def init(self, spec, key):
        """Own parameters: the classifier's layers."""
        features = spec.student.features.shape[-1]
        sizes = (features, *[self.width] * (self.depth - 1), spec.num_classes)
        return {"classifier": dense_layers(sizes, jax.random.split(key, self.depth))}, {}

    def passes(self, inputs, outputs, batch, now, key):
        """The student as it is, and on the hypothesis alone."""
        alone = without_premise(inputs, self.hypothesis)
        return {"student": Pass(inputs), "student/hypothesis": Pass(alone)}

    def __call__(self, terms, outputs, batch, params, now, key):
        """Adds the classifier's loss."""
        strength = jnp.asarray(self.strength)
        h = reverse_gradient(outputs["student/hypothesis"].features, strength)
        between = jnp.tanh if self.nonlinear else lambda x: x
        guess = discriminate(params["classifier"], h, between)
        adversary = masked_mean(task_loss(guess, batch), batch["real"])
        loss = masked_mean(terms.total, batch["real"]) + self.loss_weight * adversary
        return loss, now.memory, {"hypothesis_loss": adversary}
