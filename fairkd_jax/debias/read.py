"""READ: a product of experts whose bias net takes part in the lower attention (arXiv 2305.17627).

The bias net is one of few blocks. In training the student's attention in these blocks is
`(1 - share) A + share sg(A_bias)`, and the loss is
`CE(log softmax z + sg(log softmax z_bias)) + CE(z_bias)`; it predicts by its own A and z alone.

A step costs 1.6x that of ERM (processor time, BERT tiny, 32 x 32 tokens): the bias net is half as
deep as this student, and has embeddings of its own.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import masked_mean, task_loss
from fairkd_jax.types import Array, Pass, Spec


@struct.dataclass
class Towards:
    """Moves an intermediate a `share` of the way to `value`."""

    value: Array  # like the intermediate
    share: Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return ((1 - self.share) * x + self.share * self.value).astype(x.dtype)


@struct.dataclass
class READ(Debiaser):
    """The additive form, which the published script uses; the other fails in the authors' code.

    The paper's two nets share embeddings, values and perceptrons, and A_bias is what the bias net's
    queries and keys make of the student's states; here the bias net is one by itself, and A_bias
    its own. From published weights both start alike. For T5 the blocks are those of the encoder.
    """

    extra_nets = ("bias",)
    search = {"share": (0.1, 0.3), "layers": (1, 3)}

    share: Array = 0.1  # of the bias net's attention (rho)
    temperature: Array = 1.0  # what the scores under the bias net's attention are divided by
    layers: int = struct.field(pytree_node=False, default=1)  # the paper: 3 of BERT-base's 12

    @property
    def taps(self) -> str:
        """The attention of the lower blocks; features, for a net without to reach `check`."""
        blocks = "|".join(f"{i:02}" for i in range(self.layers))
        return rf"features|(enc/)?block({blocks})/attn_probs"

    def check(self, spec: Spec) -> None:
        """Raises ValueError for a number out of range, or more blocks than have attention."""
        if not self.temperature > 0:
            raise ValueError(f"read: temperature = {self.temperature}, expected a number above 0")
        if not 0 <= self.share <= 1:
            raise ValueError(f"read: share = {self.share}, expected a share from 0 to 1")
        found = len(_attention(spec.student.taps))
        if not 0 < self.layers == found:
            raise ValueError(
                f"read: layers = {self.layers}, but the student has {found} such blocks with "
                "attention; expected 1 to as many as its depth, of a BERT, T5 or ViT"
            )

    def extra_net(self, student):
        """The student cut after its lower blocks, with a head of its own."""
        lower = dataclasses.replace(student.architecture, depth=self.layers)
        return dataclasses.replace(student, architecture=lower)

    def passes(self, inputs, outputs, batch, now, key):
        """The student with the bias net's attention mixed into its own."""
        edits = {}
        for tap, probs in _attention(outputs["bias"].taps).items():
            scores = jnp.log(jax.lax.stop_gradient(probs)) / self.temperature
            edits[tap] = Towards(jax.nn.softmax(scores), self.share)
        return {"student": Pass(inputs, edits)}

    def task(self, outputs, batch, params, now):
        """Cross-entropy of the product, [B]; `log softmax(z)` and `z` differ by a constant."""
        bias = jax.lax.stop_gradient(jax.nn.log_softmax(outputs["bias"].logits))
        return task_loss(outputs["student"].logits + bias, batch)

    def __call__(self, terms, outputs, batch, params, now, key):
        """The mean of the losses, plus the bias net's own."""
        bias = masked_mean(task_loss(outputs["bias"].logits, batch), batch["real"])
        return masked_mean(terms.total, batch["real"]) + bias, now.memory, {"bias_loss": bias}


def _attention(taps: dict[str, Array]) -> dict[str, Array]:
    return {name: x for name, x in taps.items() if name.endswith("/attn_probs")}
