"""Altered inputs: what a method has the student read beside, or in the place of, an example.

`inputs` are the arrays of one view, [B, ...]. Of texts, arrays as long as "mask" go by token; pairs
of texts have "segments", 0 on the first text and 1 on the second, one after the other.
"""

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


def _by_token(inputs: Inputs, change) -> Inputs:
    """The inputs with `change` of each array that has an entry a token."""
    shape = inputs["mask"].shape
    return {k: change(x) if x.shape[:2] == shape else x for k, x in inputs.items()}


def _like(x: Array, other: Array) -> Array:
    return x.reshape(*x.shape, *[1] * (other.ndim - x.ndim))
