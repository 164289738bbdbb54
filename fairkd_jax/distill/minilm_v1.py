"""MiniLM: attention and value relations of the last block (arXiv 2002.10957).

`KL(A_t || A_s) + KL(R_t || R_s)`, A the attention distributions, `R = softmax(V V^T / sqrt(H))`,
each a mean over heads and queries. Both nets have as many heads; widths and depths may differ.
"""

import jax.numpy as jnp
from flax import struct

from fairkd_jax.distill import blocks
from fairkd_jax.distill.base import Distiller, mean_over
from fairkd_jax.types import KD, Array, Spec


@struct.dataclass
class MiniLMv1(Distiller):
    """Distributions are those of the nets, T5's with its biases; only over real tokens.

    The authors released no code for it: reductions are those of `bloomberg/minilmv2.bb`.
    """

    reads = "inside"

    attention_weight: Array = 1.0
    value_weight: Array = 1.0

    student_taps = teacher_taps = blocks.taps("attn_scores", "attn_value")

    def check(self, spec: Spec) -> None:
        """Raises ValueError without a teacher, for nets without attention, or of other heads."""
        nets = blocks.check(spec, "minilm_v1", "attn_scores", "attn_value")
        blocks.check_equal(nets, "minilm_v1", "attn_scores", 1, "heads (minilm_v2 cuts them anew)")
        blocks.check_equal(nets, "minilm_v1", "attn_scores", 2, "tokens")

    def __call__(self, student, teachers, batch, params, now):
        """Mean over teachers by their shares, [B]."""
        losses = []
        for teacher in teachers:
            nets = [(net, blocks.names(net, "attn_scores")[-1]) for net in (teacher, student)]
            scores = [net.taps[f"{last}/attn_scores"] for net, last in nets]
            values = [net.taps[f"{last}/attn_value"] for net, last in nets]
            mask = blocks.real_tokens(student, teacher, values[0])
            relations = [blocks.relation(v, v.shape[2]) for v in values]
            attention = blocks.attention_divergence(*scores, mask)
            value = blocks.attention_divergence(*relations, mask)
            losses.append(self.attention_weight * attention + self.value_weight * value)
        return KD(per_example=mean_over(teachers, losses), penalty=jnp.zeros(()))
