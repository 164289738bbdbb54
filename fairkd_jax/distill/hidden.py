"""Distillation of intermediates through learned projections (FitNets, arXiv 1412.6550, eq. 2-3).

For each named pair, a dense map takes the student's last axis to the teacher's (a 1x1 convolution
on feature maps); the loss is the mean squared error.
"""

import re

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax.distill.base import Distiller, mean_over
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import KD, Outputs, Spec

Pair = tuple[str, str]  # (the student's intermediate, the teacher's)


def _name(pair: Pair, teacher: int) -> str:
    """The key of a projection: "block01.out_to_block03.out_teacher0"; "/" parts paths."""
    return "{}_to_{}_teacher{}".format(*pair, teacher).replace("/", ".")


def _any_of(names: list[str]) -> str:
    return "|".join(re.escape(n) for n in names)


def mean_square(
    difference: Float[JaxArray, "B *positions D"], mask: Float[JaxArray, "B T"] | None
) -> Float[JaxArray, "B"]:
    """Mean square over features and positions, by example; only over real tokens where masked."""
    square = jnp.mean(difference**2, axis=-1)
    if mask is None or square.ndim == 1 or square.shape[1] != mask.shape[1]:
        return jnp.mean(square.reshape(square.shape[0], -1), axis=1)
    square = jnp.mean(square.reshape(*mask.shape, -1), axis=2)
    return jnp.sum(square * mask, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1.0)


@struct.dataclass
class Hidden(Distiller):
    """The mean over pairs and teachers. Layers meet by name, not by position in a list.

    Unlike FitNets this is no stage before distillation but a term beside it, and the regressor has
    neither BatchNorm nor ReLU.
    """

    reads = "inside"

    pairs: tuple[Pair, ...] = struct.field(pytree_node=False, default=(("features", "features"),))

    @property
    def student_taps(self) -> str:
        """The first names of the pairs."""
        return _any_of([s for s, _ in self.pairs])

    @property
    def teacher_taps(self) -> str:
        """The second names of the pairs."""
        return _any_of([t for _, t in self.pairs])

    def check(self, spec: Spec) -> None:
        """Raises ValueError without pairs or teacher, or for positions that differ in number.

        Raises UnknownName for an intermediate that was not saved.
        """
        if not self.pairs or not spec.teachers:
            raise ValueError(
                f"distill.hidden needs pairs and a teacher: pairs = {self.pairs}, "
                f"{len(spec.teachers)} teachers"
            )
        for s, t in self.pairs:
            for k, teacher in enumerate(spec.teachers):
                ours = _shape(spec.student, s, "student")
                theirs = _shape(teacher, t, f"teacher {k}")
                if ours[1:-1] != theirs[1:-1]:
                    raise ValueError(
                        f"distill.hidden: positions differ between the student's {s!r} [B, "
                        f"{', '.join(map(str, ours[1:]))}] and teacher {k}'s {t!r} [B, "
                        f"{', '.join(map(str, theirs[1:]))}]: pair intermediates of equal size"
                    )

    def init(self, spec: Spec, key):
        """Own parameters: one dense map for each pair and teacher."""
        params = {}
        for i, (s, t) in enumerate(self.pairs):
            for k, teacher in enumerate(spec.teachers):
                size = (spec.student.taps[s].shape[-1], teacher.taps[t].shape[-1])
                draw = jax.random.fold_in(jax.random.fold_in(key, i), k)
                kernel = jax.nn.initializers.lecun_normal()(draw, size)
                params[_name((s, t), k)] = {"kernel": kernel, "bias": jnp.zeros(size[1])}
        return params, {}

    def __call__(self, student, teachers, batch, params, now):
        """Mean squared error over features and positions that are real in both nets, [B]."""
        losses = []
        for s, t in self.pairs:
            for k, teacher in enumerate(teachers):
                dense = params[_name((s, t), k)]
                target = jax.lax.stop_gradient(teacher.taps[t])
                ours = student.taps[s] @ dense["kernel"] + dense["bias"]
                losses.append(mean_square(ours - target, _real_in_both(student, teacher)))
        return KD(per_example=mean_over(teachers * len(self.pairs), losses), penalty=jnp.zeros(()))


def _shape(outputs: Outputs, tap: str, place: str) -> tuple[int, ...]:
    if tap not in outputs.taps:
        raise UnknownName(tap, f"intermediate of the {place}:", outputs.taps)
    return outputs.taps[tap].shape


def _real_in_both(student: Outputs, teacher: Outputs) -> JaxArray | None:
    masks = [x.mask for x in (student, teacher) if x.mask is not None]
    if len(masks) == 2 and masks[0].shape == masks[1].shape:
        return masks[0] * masks[1]
    return masks[0] if masks else None
