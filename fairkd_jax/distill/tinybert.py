"""TinyBERT: attention scores and hidden states of blocks that meet (arXiv 1909.10351).

`sum over blocks of MSE(scores) + sum over embeddings and blocks of MSE(h_s W, h_t)`: scores before
softmax, those below -100 (masked) taken as 0 in both nets as in the authors' code, one W for all
layers. Its soft cross-entropy, a later stage there, is `logits`.
"""

import jax
import jax.numpy as jnp
from flax import struct

from fairkd_jax.distill import blocks, projections
from fairkd_jax.distill.base import Distiller, mean_over
from fairkd_jax.losses import of_rows
from fairkd_jax.types import KD, Array, Outputs, Spec

EMBED = r"(?:enc/)?embed"
MASKED = -1e2


def _embed(net: Outputs) -> str:
    return "enc/embed" if "enc/embed" in net.taps else "embed"


@struct.dataclass
class TinyBERT(Distiller):
    """Means are over heads, features and real tokens, of both nets.

    The authors' code leaves padded positions in, and so divides by the padded length; without a
    mask, where all tokens are real, both are one. Both nets have as many heads.
    """

    reads = "inside"

    attention_weight: Array = 1.0
    hidden_weight: Array = 1.0
    layers: blocks.Layers = struct.field(pytree_node=False, default=())  # {"block00": "block01"}

    student_taps = teacher_taps = f"{blocks.taps('attn_scores', 'out')}|{EMBED}"

    def check(self, spec: Spec) -> None:
        """Raises ValueError without a teacher, for nets without attention, or of other heads or
        tokens; UnknownName for a block that is not there.
        """
        nets = blocks.check(spec, "tinybert", "attn_scores", "out", layers=self.layers)
        blocks.check_equal(nets, "tinybert", "attn_scores", 1, "heads")
        blocks.check_equal(nets, "tinybert", "attn_scores", 2, "tokens")

    def init(self, spec, key):
        """Own parameters: a dense map to each teacher's width."""
        sizes = [net.taps[_embed(net)].shape[-1] for net in (spec.student, *spec.teachers)]
        return {
            f"teacher{k}": projections.dense(jax.random.fold_in(key, k), sizes[0], size)
            for k, size in enumerate(sizes[1:])
        }, {}

    def terms(
        self, student: Outputs, teacher: Outputs, dense: dict[str, Array], batch: dict
    ) -> tuple[Array, Array]:
        """(of attention, of hidden states), sums over layers, [B] each."""
        mask = blocks.real_tokens(student, teacher, student.taps[_embed(student)])
        there = (blocks.names(net, "out") for net in (student, teacher))
        pairs = blocks.meet(*there, self.layers)
        between = mask[:, None, :, None] * mask[:, None, None, :]
        scores = [
            (student.taps[f"{s}/attn_scores"], teacher.taps[f"{t}/attn_scores"]) for s, t in pairs
        ]
        scores = [[jnp.where(x <= MASKED, 0.0, x) for x in pair] for pair in scores]
        attention = sum(_mean_square(ours - theirs, between) for ours, theirs in scores)
        states = [(_embed(student), _embed(teacher)), *((f"{s}/out", f"{t}/out") for s, t in pairs)]
        hidden = sum(
            _mean_square(
                projections.apply(dense, of_rows(student.taps[s], batch["real"])) - teacher.taps[t],
                mask[:, :, None],
            )
            for s, t in states
        )
        return attention, hidden

    def __call__(self, student, teachers, batch, params, now):
        """Mean over teachers by their shares, [B]."""
        losses = []
        for k, teacher in enumerate(jax.lax.stop_gradient(teachers)):
            terms = self.terms(student, teacher, params[f"teacher{k}"], batch)
            losses.append(self.attention_weight * terms[0] + self.hidden_weight * terms[1])
        return KD(per_example=mean_over(teachers, losses), penalty=jnp.zeros(()))


def _mean_square(x: Array, mask: Array) -> Array:
    """By example, where `mask` is 1, which broadcasts; float32 or more."""
    axes, x = tuple(range(1, x.ndim)), x.astype(jnp.promote_types(x.dtype, jnp.float32))
    count = jnp.sum(jnp.broadcast_to(mask, x.shape), axis=axes)
    return jnp.sum(jnp.where(mask > 0, x, 0.0) ** 2, axis=axes) / jnp.maximum(count, 1.0)
