"""Altered inputs: what a method has the student read beside, or in the place of, an example.

`inputs` are the arrays of one view, [B, ...]. Of texts, arrays as long as "mask" go by token; pairs
of texts have "segments", 0 on the first text and 1 on the second, one after the other.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array as JaxArray
from jaxtyping import Bool, Float, Int

from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Array, Spec

TEXTS = ("first", "second")
Inputs = dict[str, Array]


def draws(real: Float[JaxArray, "B"], key: JaxArray, *shape: int) -> Float[JaxArray, "B *shape"]:
    """Uniform numbers for each row, by its rank among the real ones: padding changes none."""
    rank = jnp.cumsum(real > 0) - 1
    return jax.random.uniform(key, (len(real), *shape))[rank]


def check_pairs(spec: Spec, method: str, hypothesis: str) -> None:
    """Raises ValueError where the batch does not tell a premise from a hypothesis."""
    if hypothesis not in TEXTS:
        raise UnknownName(hypothesis, f"{method}: hypothesis", TEXTS)
    told = f"{method} needs to know which tokens are the hypothesis, of a view of pairs of texts"
    if not {"mask", "segments"} <= spec.inputs.keys():
        raise ValueError(f"{told}: the student reads {sorted(spec.inputs)}, without 'segments'")
    segments = spec.inputs["segments"]
    if isinstance(segments, np.ndarray | jax.Array) and not np.any(segments):
        raise ValueError(f"{told}: the texts of the batch that was looked at are single ones")


def in_hypothesis(inputs: Inputs, hypothesis: str) -> Bool[JaxArray, "B T"]:
    """Which tokens are the hypothesis: the "second" text, or the "first" with what precedes it."""
    return (inputs["mask"] > 0) & ((inputs["segments"] > 0) == (hypothesis == "second"))


def without_premise(inputs: Inputs, hypothesis: str) -> Inputs:
    """The hypothesis alone: nothing attends to the premise, and its tokens are all 0.

    But for the very first, which a net may read its answer at, as BERT does at [CLS].
    """
    kept = in_hypothesis(inputs, hypothesis)
    seen = kept | (jnp.arange(kept.shape[1]) == 0)
    blanked = _by_token(inputs, lambda x: jnp.where(_like(seen, x), x, 0))
    return blanked | {"mask": kept.astype(inputs["mask"].dtype), "segments": inputs["segments"]}


def other_premise(inputs: Inputs, partner: Int[JaxArray, "B"], hypothesis: str) -> Inputs:
    """Each hypothesis with its partner's premise, cut where both are too long for a row.

    Its last token, which may be a [SEP], stays.
    """
    own, length = jnp.arange(len(partner)), inputs["mask"].shape[1]
    rows, premise = ((partner, own), 0) if hypothesis == "second" else ((own, partner), 1)
    real, second = inputs["mask"] > 0, inputs["segments"] > 0
    counts = [jnp.sum(real & (second == bool(k)), axis=1, keepdims=True) for k in range(2)]
    sizes = [count[row] for count, row in zip(counts, rows)]
    kept = [*sizes]
    kept[premise] = jnp.minimum(sizes[premise], length - sizes[1 - premise])

    place, columns = jnp.arange(length), []
    for text, (before, begins) in enumerate(((0, 0), (kept[0], counts[0][rows[1]]))):
        nth = place - before  # of the text
        nth = jnp.where(nth == kept[text] - 1, sizes[text] - 1, nth)
        columns.append(jnp.clip(begins + nth, 0, length - 1))

    def joined(x: Array) -> Array:
        parts = [
            jnp.take_along_axis(x[row], _like(column, x), axis=1)
            for row, column in zip(rows, columns)
        ]
        x = jnp.where(_like(place < kept[0], x), *parts)
        return jnp.where(_like(place < kept[0] + kept[1], x), x, 0)

    return _by_token(inputs, joined)


def shuffled(inputs: Inputs, real: Float[JaxArray, "B"], key: JaxArray, grid: int) -> Inputs:
    """Tokens in a random order within their text, or the patches of an image.

    The first token of a row and the last of each text, which may be special, stay.
    """
    movable, text = _pieces(inputs, grid)
    rank, place = jnp.cumsum(movable, axis=1) - 1, jnp.arange(movable.shape[1])
    scores = jnp.where(movable, text + draws(real, key, movable.shape[1]), jnp.inf)
    order = jnp.argsort(scores, axis=1)  # a text's movable pieces, shuffled, then the next one's
    source = jnp.where(movable, jnp.take_along_axis(order, rank, axis=1), place)
    return _by_piece(inputs, grid, lambda x: jnp.take_along_axis(x, _like(source, x), axis=1))


def dropped(
    inputs: Inputs, real: Float[JaxArray, "B"], key: JaxArray, grid: int, rate: Array
) -> Inputs:
    """Without a share `rate` of the tokens that `shuffled` moves, which are masked and 0.

    Or of the patches of an image, which then are 0: the colour that the view calls its mean.
    """
    movable, _ = _pieces(inputs, grid)
    gone = movable & (draws(real, key, movable.shape[1]) < rate)
    return _by_piece(inputs, grid, lambda x: jnp.where(_like(gone, x), 0, x))


def check_pieces(spec: Spec, method: str, grid: int) -> None:
    """Raises ValueError where the student reads neither texts nor images that `grid` divides."""
    if "mask" in spec.inputs:
        return
    if "pixels" not in spec.inputs:
        raise ValueError(
            f"{method} alters texts with a 'mask', or 'pixels': the student reads "
            f"{sorted(spec.inputs)}"
        )
    height, width = spec.inputs["pixels"].shape[1:3]
    if grid < 1 or height % grid or width % grid:
        raise ValueError(f"{method}: grid = {grid} does not divide images of {height} x {width}")


def _pieces(inputs: Inputs, grid: int) -> tuple[Bool[JaxArray, "B P"], Int[JaxArray, "B P"]]:
    """(which pieces may be altered, the text that they are of); patches row by row."""
    if "mask" not in inputs:
        shape = len(inputs["pixels"]), grid**2
        return jnp.ones(shape, bool), jnp.zeros(shape, jnp.int32)
    real = inputs["mask"] > 0
    text = inputs.get("segments", jnp.zeros_like(inputs["mask"]))
    follows = real[:, 1:] & (text[:, 1:] == text[:, :-1])
    last = ~jnp.pad(follows, ((0, 0), (0, 1)))
    return real & ~last & (jnp.arange(real.shape[1]) > 0), text


def _by_piece(inputs: Inputs, grid: int, change: Callable) -> Inputs:
    if "mask" in inputs:
        return _by_token(inputs, change)
    shape = inputs["pixels"].shape
    rows, height, width, channels = shape
    cells = rows, grid, height // grid, grid, width // grid, channels
    patches = inputs["pixels"].reshape(cells).swapaxes(2, 3)
    changed = change(patches.reshape(rows, grid**2, -1)).reshape(patches.shape)
    return dict(inputs) | {"pixels": changed.swapaxes(2, 3).reshape(shape)}


def _by_token(inputs: Inputs, change: Callable) -> Inputs:
    """The inputs with `change` of each array that has an entry a token."""
    shape = inputs["mask"].shape
    return {k: change(x) if x.shape[:2] == shape else x for k, x in inputs.items()}


def _like(x: Array, other: Array) -> Array:
    return x.reshape(*x.shape, *[1] * (other.ndim - x.ndim))
