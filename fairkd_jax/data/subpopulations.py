"""Subpopulations: parts of a split that are scored beside its groups, as columns of truth values.

They may overlap, and leave examples out; so they are no groups to train on.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int

MOST = 256  # values of a column: one with more is an identity or a text, and no kind of example

Members = tuple[tuple[str, ...], Bool[np.ndarray, "N E"]]  # names, and who is in each


def by_value(columns: Mapping[str, Sequence[str]], place: str) -> Members:
    """One for each value of each column, "origin=revised_premise"; a row of "" is in none of it.

    Values are in the order of the alphabet. Raises ValueError, naming the place, for a column
    without any value or with more than `MOST`.
    """
    names, parts = [], []
    for column, texts in columns.items():
        values = np.asarray(texts, object)
        found = sorted({*texts} - {""})
        if not 0 < len(found) <= MOST:
            raise ValueError(
                f"{place}: column {column!r} has {len(found)} different values in {len(values)} "
                f"rows, expected from 1 to {MOST}: each becomes a subpopulation"
            )
        names += [f"{column}={value}" for value in found]
        parts += [values == value for value in found]
    return tuple(names), np.stack(parts, axis=1)


def by_label(flags: Mapping[str, Bool[np.ndarray, "N"]], label: Int[np.ndarray, "N"]) -> Members:
    """One for each flag and label, of two: "y:0_male:1" and "y:1_male:1" where the flag is "male".

    So are they named, and in this order, in what WILDS (arXiv 2012.07421) reports of
    CivilComments, whose worst group is the worst of these.
    """
    cells = [(name, flag, y) for name, flag in flags.items() for y in (0, 1)]
    names = tuple(f"y:{y}_{name}:1" for name, _, y in cells)
    return names, np.stack([flag & (label == y) for _, flag, y in cells], axis=1)
