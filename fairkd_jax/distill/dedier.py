"""DeDiER: what an early layer confidently gets wrong weighs more (arXiv 2310.18590).

A linear head on an early layer is trained beside; where it errs, an example's distillation and task
loss are multiplied by `exp(beta m^alpha)`, m the margin of its two largest probabilities.
"""

import re

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax.distill.base import BLOCKS, Distiller, mean_over, require_teachers
from fairkd_jax.losses import kl_divergence, labelled, masked_mean, of_rows, task_loss
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import KD, Array, Batch, Outputs, Spec


@struct.dataclass
class DeDiER(Distiller):
    """The loss is `weight T^2 KL`, not divided by the sum of weights, as in a reimplementation.

    Weights are of the head as it is, so none is stale; they are 1 in the first `wait` of the run,
    while it learns (paper and reimplementation: first and anew after some epochs). Beyond two
    classes the margin is ours. The head sends no gradient into the net; its loss is a penalty.
    """

    reads = "logits"

    temperature: Array = 3.0
    alpha: Array = 0.2
    beta: Array = 3.0
    wait: Array = 0.1  # share of the steps
    tap: str = struct.field(pytree_node=False, default="")  # "": the block at a quarter of depth

    @property
    def student_taps(self) -> str:
        """The named intermediate; by default those behind blocks."""
        return re.escape(self.tap) if self.tap else rf"{BLOCKS}|features"

    def _tap(self, student: Outputs) -> str:
        found = [tap for tap in student.taps if re.fullmatch(BLOCKS, tap)]
        found.sort(key=lambda tap: [int(n) for n in re.findall(r"\d+", tap)])
        return self.tap or found[max(-(-len(found) // 4), 1) - 1]

    def check(self, spec: Spec) -> None:
        """Raises ValueError without a teacher, for one of other classes, or a student without
        blocks; UnknownName for an intermediate that it does not have.
        """
        require_teachers(spec, "dedier")
        there = [tap for tap in spec.student.taps if self.tap or re.fullmatch(BLOCKS, tap)]
        if not there:
            raise ValueError(
                "distill.dedier: the student has no blocks, so say tap = the name of an early layer"
            )
        if self.tap and self.tap not in there:
            raise UnknownName(self.tap, "intermediate in distill.dedier.tap:", there)

    def init(self, spec, key):
        """Own parameters: the early head, which starts at 0."""
        width = spec.student.taps[self._tap(spec.student)].shape[-1]
        head = {"kernel": jnp.zeros((width, spec.num_classes)), "bias": jnp.zeros(spec.num_classes)}
        return {"head": head}, {}

    def readout(self, student: Outputs, head: dict[str, Array], batch: Batch) -> Array:
        """Logits of the early head, [B, C]: of the mean over real tokens, or over the map."""
        x = jax.lax.stop_gradient(of_rows(student.taps[self._tap(student)], batch["real"]))
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if x.ndim == 3 and student.mask is not None and student.mask.shape == x.shape[:2]:
            mask = student.mask[:, :, None]
            x = jnp.sum(x * mask, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1.0)
        return jnp.mean(x, axis=tuple(range(1, x.ndim - 1))) @ head["kernel"] + head["bias"]

    def misread(
        self, early: Float[JaxArray, "B C"], batch: Batch
    ) -> tuple[Float[JaxArray, "B"], Float[JaxArray, "B"]]:
        """(1 where the early head errs, what such an example weighs); no gradient."""
        first, second = jnp.moveaxis(jax.lax.top_k(jax.nn.softmax(early), 2)[0], 1, 0)
        wrong = labelled(batch) * (jnp.argmax(early, axis=1) != batch["label"])
        weight = jnp.exp(self.beta * (first - second) ** self.alpha)
        return jax.lax.stop_gradient((wrong, jnp.where(wrong > 0, weight, 1.0)))

    def __call__(self, student, teachers, batch, params, now):
        """Mean over teachers by their shares, [B]; the head's own loss is a penalty."""
        t, early = self.temperature, self.readout(student, params["head"], batch)
        wrong, weight = self.misread(early, batch)
        weight = jnp.where(now.step < self.wait * now.steps, 1.0, weight)
        losses = [t**2 * kl_divergence(x.logits, student.logits, t) for x in teachers]
        return KD(
            per_example=weight * mean_over(teachers, losses),
            penalty=masked_mean(task_loss(early, batch), labelled(batch)),
            metrics={"misread": masked_mean(wrong, labelled(batch))},
            task_weight=weight,
        )
