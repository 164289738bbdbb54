"""Where tokens stand to one another, known before anything is computed: numpy, no parameters.

Buckets of relative positions (arXiv 1910.10683, section 2.1), texts that share their beginnings as
one sequence, and a grid of patches seen as another.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from fairkd_jax.types import Array


def relative_buckets(
    offset: Int[np.ndarray, "*shape"], buckets: int, max_distance: int, causal: bool
) -> Int[np.ndarray, "*shape"]:
    """The bucket of each `offset`, position of the key - position of the query.

    Half of the buckets are for single distances, half grow as their logarithm up to `max_distance`;
    unless `causal`, keys behind and ahead of the query have half of the buckets each.
    """
    if causal:
        first, distance = 0, np.maximum(-offset, 0)
    else:
        buckets //= 2
        first, distance = buckets * (offset > 0), np.abs(offset)
    single = buckets // 2
    share = np.log(np.maximum(distance, 1) / single) / np.log(max_distance / single)
    far = np.minimum(single + (share * (buckets - single)).astype(int), buckets - 1)
    return (first + np.where(distance < single, distance, far)).astype(np.int32)


class Text(NamedTuple):
    """What a decoder reads, each row of the batch its own or all the same."""

    tokens: Array  # int32 [#B, P]
    places: Int[np.ndarray, " P"]  # in its text
    visible: Bool[np.ndarray, "P P"]  # [query, key]: the query may attend to the key


def whole(tokens: Array) -> Text:
    """One text a row: a token sees itself and all before it."""
    places = np.arange(tokens.shape[1])
    return Text(tokens, places, places[:, None] >= places)


def prefix_tree(
    texts: Sequence[tuple[int, ...]], start: int
) -> tuple[Text, Int[np.ndarray, "3 M"]]:
    """(texts as one sequence in which each beginning stands once, all that is to be predicted).

    Every text follows `start`; its last token is only predicted, never read. A token sees itself
    and what precedes it in its text, so what is computed there is as if its text stood alone.
    Predictions, text after text: where in the sequence, which token, of which text.
    """
    prefixes = dict.fromkeys(text[:n] for text in texts for n in range(len(text)))
    sequence = Text(
        tokens=np.array([[(start, *p)[-1] for p in prefixes]], np.int32),
        places=np.array([len(p) for p in prefixes]),
        visible=np.array([[q[: len(k)] == k for k in prefixes] for q in prefixes]),
    )
    where = {prefix: i for i, prefix in enumerate(prefixes)}
    predicted = [
        (where[text[:n]], token, i) for i, text in enumerate(texts) for n, token in enumerate(text)
    ]
    return sequence, np.array(predicted, np.int32).T


def bicubic(source: int, target: int) -> Float[np.ndarray, "{target} {source}"]:
    """The matrix that interpolates `source` equidistant values to `target`, float64.

    Cubic convolution (Keys 1981) with a = -0.75, pixels as areas, the border repeated: PyTorch's
    "bicubic" without `align_corners` or antialiasing, which published nets were resized with.
    """
    a, place = -0.75, (np.arange(target) + 0.5) * source / target - 0.5
    matrix = np.zeros((target, source))
    for step in (-1, 0, 1, 2):
        column = np.floor(place) + step
        d = np.abs(place - column)
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * (d**3 - 5 * d**2 + 8 * d - 4)
        column = np.clip(column, 0, source - 1).astype(int)
        np.add.at(matrix, (np.arange(target), column), np.where(d <= 1, near, far))
    return matrix
