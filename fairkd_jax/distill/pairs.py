"""An intermediate of the student and one of a teacher: found by name, checked, freed of padding.

Methods read `Met.ours` and `Met.theirs`, float32 [B, ..., D] in whatever type the nets compute:
rows of padding and positions that are not real in both nets are zero in them, so that no sum over
rows or positions needs to know of these. The gradient stops at the teacher.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax.distill.base import BLOCKS, LAST, Distiller, Pair, mean_over
from fairkd_jax.registry import UnknownName, name_of
from fairkd_jax.types import Array, Batch, Outputs, Spec


class Met(NamedTuple):
    """What a method compares: one pair of one teacher."""

    name: str  # the key of what is learned for it; see `name`
    ours: JaxArray  # [B, D], [B, T, D] or [B, Y, X, D], as is the next one, of other sizes
    theirs: JaxArray
    real: JaxArray  # [B], 1 for an example
    masks: tuple  # of both, [B, T], 1 on real tokens, or None: all are; equal where both have T

    def pooled(self) -> "Met":
        """The same with the larger of two maps averaged down to the size of the smaller."""
        if self.ours.ndim != 4:
            return self
        size = [min(pair) for pair in zip(self.ours.shape[1:3], self.theirs.shape[1:3])]
        return self._replace(ours=pool(self.ours, *size), theirs=pool(self.theirs, *size))

    def flat(self) -> tuple[Float[JaxArray, "B M"], Float[JaxArray, "B N"]]:
        """Both as vectors."""
        return tuple(x.reshape(len(x), -1) for x in (self.ours, self.theirs))

    def averaged(self) -> tuple[Float[JaxArray, "B D"], Float[JaxArray, "B F"]]:
        """Both as vectors, means over positions."""
        both = zip((self.ours, self.theirs), self.masks)
        return tuple(_mean(positions(x), self.real, mask) for x, mask in both)

    def mean(self, values: Float[JaxArray, "B P *rest"]) -> Float[JaxArray, "B *rest"]:
        """The mean over positions, of those that are real in both; 0 for a row of padding."""
        return _mean(values, self.real, self.masks[0])

    def kept(self, values: Float[JaxArray, "B *P D"]) -> Float[JaxArray, "B *P D"]:
        """Zero, with gradient zero, where a row or a position is not real in both."""
        return _kept(positions(values), self.real, self.masks[0]).reshape(values.shape)

    def overall(self, values: Float[JaxArray, "B *P D"]) -> Float[JaxArray, "D"]:
        """The mean over all rows and positions that are real in both."""
        weights = (
            self.real[:, None] if self.masks[0] is None else self.real[:, None] * self.masks[0]
        )
        values = positions(self.kept(values))
        count = jnp.sum(jnp.broadcast_to(weights, values.shape[:2]))
        return jnp.sum(values, axis=(0, 1)) / jnp.maximum(count, 1.0)


def _kept(values: JaxArray, real: JaxArray, mask: JaxArray | None) -> JaxArray:
    """Zero, with gradient zero, where a row or a position is not real: also where it is NaN."""
    kept = real[:, None] > 0 if mask is None else (real[:, None] * mask) > 0
    return jnp.where(kept.reshape(*kept.shape, *[1] * (values.ndim - 2)), values, 0.0)


def _mean(values: JaxArray, real: JaxArray, mask: JaxArray | None) -> JaxArray:
    count = values.shape[1] if mask is None else jnp.maximum(jnp.sum(mask, 1), 1.0)
    total = jnp.sum(_kept(values, real, mask), axis=1)
    return total / jnp.reshape(count, (-1, *[1] * (total.ndim - 1)))


def positions(x: Float[JaxArray, "B *positions D"]) -> Float[JaxArray, "B P D"]:
    """A vector has one position, a map one for each pixel."""
    return x.reshape(len(x), -1, x.shape[-1])


def pool(x: Float[JaxArray, "B Y X D"], height: int, width: int) -> Float[JaxArray, "B V U D"]:
    """Means over cells that cover the map, as large as each other or nearly so.

    They are those of PyTorch's adaptive pooling: cell i of n goes from floor(i N / n) to
    ceil((i + 1) N / n), so that neighbours overlap where n does not divide N.
    """
    rows, columns = (
        jnp.asarray(_cells(*sizes), x.dtype) for sizes in zip(x.shape[1:3], (height, width))
    )
    return jnp.einsum("vy,ux,byxd->bvud", rows, columns, x, precision="highest")


def _cells(large: int, small: int) -> np.ndarray:
    index, place = np.arange(small)[:, None], np.arange(large)
    cells = (place >= index * large // small) & (place < -(-(index + 1) * large // small))
    return cells / cells.sum(axis=1, keepdims=True)


def name(pair: Pair, teacher: int) -> str:
    """The key of what is learned: "block01.out_to_block03.out_teacher0"; "/" parts paths."""
    return "{}_to_{}_teacher{}".format(*pair, teacher).replace("/", ".")


def meet(
    pairs: Sequence[Pair], student: Outputs, teachers: Sequence[Outputs], batch: Batch
) -> Iterator[list[Met]]:
    """For each pair a list, of one `Met` for each teacher."""
    for pair in pairs:
        yield [_met(pair, k, student, teacher, batch) for k, teacher in enumerate(teachers)]


def total(
    loss: Callable[[Met], JaxArray],
    pairs: Sequence[Pair],
    student: Outputs,
    teachers: Sequence[Outputs],
    batch: Batch,
) -> JaxArray:
    """The sum over pairs of a loss, the mean over teachers by their shares."""
    met = meet(pairs, student, teachers, batch)
    return sum(mean_over(teachers, [loss(one) for one in of_pair]) for of_pair in met)


def _met(pair: Pair, k: int, student: Outputs, teacher: Outputs, batch: Batch) -> Met:
    both = _tap(student, pair[0], "student"), _tap(teacher, pair[1], f"teacher {k}")
    wide = jnp.promote_types(both[0].dtype, jnp.float32)
    ours, theirs = both[0].astype(wide), jax.lax.stop_gradient(both[1]).astype(wide)
    real = batch.get("real", jnp.ones(len(ours), wide))
    masks = jax.lax.stop_gradient([_mask_of(*one) for one in ((student, ours), (teacher, theirs))])
    if ours.ndim == theirs.ndim == 3 and ours.shape[1] == theirs.shape[1]:
        known = [m for m in masks if m is not None]
        masks = [jnp.prod(jnp.stack(known), axis=0) if known else None] * 2
    ours, theirs = (_kept(x, real, mask) for x, mask in zip((ours, theirs), masks))
    return Met(name(pair, k), ours, theirs, real, tuple(masks))


def _mask_of(outputs: Outputs, x: JaxArray) -> JaxArray | None:
    tokens = outputs.mask is not None and x.ndim == 3 and x.shape[1] == outputs.mask.shape[1]
    return outputs.mask if tokens else None


def _tap(outputs: Outputs, tap: str, place: str) -> Array:
    """Raises UnknownName for an intermediate that was not saved."""
    found = [n for n in outputs.taps if tap == LAST and re.fullmatch(BLOCKS, n)]
    if tap not in outputs.taps and not found:
        raise UnknownName(tap, f"intermediate of the {place}:", outputs.taps)
    return outputs.taps[tap if tap in outputs.taps else max(found, key=_place)]


def _place(tap: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", tap)]


def shapes(pair: Pair, k: int, spec: Spec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of a pair of teacher k, each [B, ..., D]. Raises UnknownName as `check` does."""
    ours = _tap(spec.student, pair[0], "student").shape
    return ours, _tap(spec.teachers[k], pair[1], f"teacher {k}").shape


def check(method: Distiller, spec: Spec, same: str = "positions") -> None:
    """Raises ValueError without pairs or teacher, or for a pair that cannot be compared.

    `same` is what must be equal: "positions", their number; "rank", where maps may have other
    sizes; "maps", the same, and no vectors; "nothing". Raises UnknownName for an intermediate that
    is not there.
    """
    called = f"distill.{name_of(type(method))}"
    if not method.pairs or not spec.teachers:
        raise ValueError(
            f"{called} needs pairs and a teacher: pairs = {method.pairs}, "
            f"{len(spec.teachers)} teachers"
        )
    for pair in method.pairs:
        for k in range(len(spec.teachers)):
            ours, theirs = shapes(pair, k, spec)
            told = [f"[B, {', '.join(map(str, shape[1:]))}]" for shape in (ours, theirs)]
            if same == "maps" and min(len(ours), len(theirs)) < 3:
                raise ValueError(
                    f"{called} compares positions, and there are none in the student's {pair[0]!r} "
                    f"{told[0]} or in teacher {k}'s {pair[1]!r} {told[1]}: name intermediates with "
                    f"positions, or {LAST!r}, the output of the last block"
                )
            sized = same in ("rank", "maps") and len(ours) == len(theirs) == 4
            if same != "nothing" and not sized and ours[1:-1] != theirs[1:-1]:
                raise ValueError(
                    f"{called}: positions differ between the student's {pair[0]!r} {told[0]} and "
                    f"teacher {k}'s {pair[1]!r} {told[1]}: pair intermediates of equal size"
                )
