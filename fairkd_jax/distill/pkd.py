"""Patient distillation of [CLS] states (arXiv 1908.09355, eq. 7).

`sum over layers of |h_s / |h_s| - h_t / |h_t||^2`, of the first token behind each block but the
last, whose blocks meet by depth (PKD-skip). The authors' code takes the mean over layers and
features (`reduction` = "mean"), and rounds it to float16, which we do not.
"""

import jax
import jax.numpy as jnp
from flax import struct

from fairkd_jax import geometry
from fairkd_jax.distill import blocks, projections
from fairkd_jax.distill.base import Distiller, mean_over
from fairkd_jax.losses import of_rows
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import KD, Array, Outputs, Spec


@struct.dataclass
class PKD(Distiller):
    """A dense map, which the paper does not need, leads to a teacher of another width.

    Of T5 these are the first states of the decoder, of ViT those of the class token.
    """

    reads = "inside"

    layers: blocks.Layers = struct.field(pytree_node=False, default=())  # {"block00": "block01"}
    reduction: str = struct.field(pytree_node=False, default="sum")  # sum | mean

    student_taps = teacher_taps = blocks.taps("out", stack="dec")

    def __post_init__(self):
        if self.reduction not in ("sum", "mean"):
            raise UnknownName(self.reduction, "reduction of distill.pkd:", ("sum", "mean"))

    def check(self, spec: Spec) -> None:
        """Raises ValueError without a teacher or for a net without blocks, UnknownName for a block
        that is not there.
        """
        blocks.check(spec, "pkd", "out", layers=self.layers, stack="dec")

    def init(self, spec, key):
        """Own parameters: a dense map to each teacher of another width."""
        sizes = [
            next((x.shape[-1] for n, x in net.taps.items() if n.endswith("/out")), 0)
            for net in (spec.student, *spec.teachers)
        ]
        return {
            f"teacher{k}": projections.dense(jax.random.fold_in(key, k), sizes[0], size)
            for k, size in enumerate(sizes[1:])
            if size != sizes[0]
        }, {}

    def states(self, student: Outputs, teacher: Outputs) -> tuple[Array, Array]:
        """(the student's, the teacher's) first states behind blocks that meet, [B, L, D] each."""
        pairs = self.layers
        if not pairs:
            there = (blocks.names(net, "out", "dec") for net in (student, teacher))
            pairs = blocks.meet(*there)
            pairs = pairs[:-1] or pairs  # the last one leads to the logits
        ours = jnp.stack([student.taps[f"{s}/out"][:, 0] for s, _ in pairs], axis=1)
        theirs = jnp.stack([teacher.taps[f"{t}/out"][:, 0] for _, t in pairs], axis=1)
        return ours, jax.lax.stop_gradient(theirs)

    def __call__(self, student, teachers, batch, params, now):
        """Mean over teachers by their shares, [B]."""
        losses = []
        for k, teacher in enumerate(teachers):
            ours, theirs = self.states(student, teacher)
            if dense := params.get(f"teacher{k}"):
                ours = projections.apply(dense, of_rows(ours, batch["real"]))
            wide = jnp.promote_types(ours.dtype, jnp.float32)
            ours, theirs = (geometry.unit(x.astype(wide)) for x in (ours, theirs))
            square = (ours - theirs) ** 2
            losses.append(getattr(jnp, self.reduction)(square, axis=(1, 2)))
        return KD(per_example=mean_over(teachers, losses), penalty=jnp.zeros(()))
