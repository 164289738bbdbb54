"""MiniLMv2: relations of queries, keys and values (arXiv 2012.15828).

`sum_r w_r KL(softmax(R_t) || softmax(R_s))`, `R = X X^T / sqrt(H)` for X the queries, keys, values
of a block, cut into as many relation heads in both nets: heads, widths and depths may differ.
"""

import math

import jax.numpy as jnp
from flax import struct

from fairkd_jax.distill import blocks
from fairkd_jax.distill.base import Distiller, mean_over
from fairkd_jax.types import KD, Array, Outputs, Spec

PARTS = ("query", "key", "value")


def _widths(net: Outputs) -> tuple[int, int]:
    """(heads, width of all of them)."""
    heads, size = net.taps[f"{blocks.names(net, 'attn_query')[-1]}/attn_query"].shape[2:]
    return heads, heads * size


@struct.dataclass
class MiniLMv2(Distiller):
    """The paper takes the last block of a base-sized teacher, an upper one of a large one.

    The authors released no code for it: weights of a third and reductions are those of
    `bloomberg/minilmv2.bb`. Only over real tokens.
    """

    reads = "inside"

    query_weight: Array = 1 / 3
    key_weight: Array = 1 / 3
    value_weight: Array = 1 / 3
    relation_heads: int | None = struct.field(pytree_node=False, default=None)
    # None: the largest number that divides the heads of both nets
    teacher_block: int = struct.field(pytree_node=False, default=-1)  # from 0; -1: the last

    student_taps = teacher_taps = blocks.taps(*(f"attn_{part}" for part in PARTS))

    def _heads(self, student: Outputs, teacher: Outputs) -> int:
        heads = math.gcd(*(_widths(net)[0] for net in (student, teacher)))
        return heads if self.relation_heads is None else self.relation_heads

    def check(self, spec: Spec) -> None:
        """Raises ValueError without a teacher, for nets without attention or of other tokens, and
        for relation heads or a block that cannot be.
        """
        nets = blocks.check(spec, "minilm_v2", *(f"attn_{part}" for part in PARTS))
        blocks.check_equal(nets, "minilm_v2", "attn_query", 1, "tokens")
        for place, net in nets:
            heads, width = self._heads(spec.student, net), _widths(net)[1]
            if not isinstance(heads, int) or heads < 1 or width % heads:
                raise ValueError(
                    f"distill.minilm_v2: relation_heads = {heads} does not divide the {width} "
                    f"units of the {place}'s queries"
                )
            found = blocks.names(net, "attn_query")
            if place != "student" and not -len(found) <= self.teacher_block < len(found):
                raise ValueError(
                    f"distill.minilm_v2: teacher_block = {self.teacher_block}, but the {place} has "
                    f"{len(found)} blocks"
                )

    def terms(self, student: Outputs, teacher: Outputs) -> list[Array]:
        """The divergence of each relation, [B]."""
        heads, found = self._heads(student, teacher), []
        ends = (teacher, self.teacher_block), (student, -1)
        ends = [(net, blocks.names(net, "attn_query")[i]) for net, i in ends]
        for part in PARTS:
            vectors = [net.taps[f"{block}/attn_{part}"] for net, block in ends]
            mask = blocks.real_tokens(student, teacher, vectors[0])
            relations = [blocks.relation(x, heads) for x in vectors]
            found.append(blocks.attention_divergence(*relations, mask))
        return found

    def __call__(self, student, teachers, batch, params, now):
        """Mean over teachers by their shares, [B]."""
        weights = self.query_weight, self.key_weight, self.value_weight
        losses = [
            sum(w * term for w, term in zip(weights, self.terms(student, teacher)))
            for teacher in teachers
        ]
        return KD(per_example=mean_over(teachers, losses), penalty=jnp.zeros(()))
