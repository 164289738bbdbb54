"""Of which examples nets are read inside: the first of each kind, in blocks for the jackknife.

The delete-a-block jackknife (Efron and Tibshirani 1993, chapter 11) needs sums by block alone, so
numbers that are made while examples pass have intervals too. A kind's examples go round the blocks
in turn, wherever batches end.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Int

KINDS = ("aligned", "conflicting")
BLOCKS = 20
LEVEL = 0.95


@dataclasses.dataclass
class Chosen:
    """The first `examples` examples of each kind, as batches come."""

    aligned: Bool[np.ndarray, "G"]  # by group: is the shortcut right there?
    examples: int
    counts: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    @property
    def full(self) -> bool:
        """No more are wanted."""
        return all(n >= self.examples for n in self.counts.values())

    def take(
        self, group: Int[np.ndarray, "B"], real: Bool[np.ndarray, "B"]
    ) -> tuple[Int[np.ndarray, "B"], Int[np.ndarray, "B"]]:
        """(kind, block) of each row of the next batch; kind -1: it is not read."""
        kind, block = np.full(len(group), -1), np.zeros(len(group), int)
        for i, (name, wanted) in enumerate(zip(KINDS, (True, False))):
            before = self.counts[name]
            at = np.flatnonzero(real & (self.aligned[group] == wanted))[: self.examples - before]
            kind[at], block[at] = i, (before + np.arange(len(at))) % BLOCKS
            self.counts[name] += len(at)
        return kind, block


@dataclasses.dataclass(frozen=True)
class Jackknifed:
    """A statistic of all examples, of any shape, and its standard error over them."""

    value: Float[np.ndarray, "*N"]
    error: Float[np.ndarray, "*N"]  # NaN where it is undefined
    blocks: int

    def __sub__(self, other: "Jackknifed") -> "Jackknifed":
        """The difference of statistics of different examples."""
        error = np.hypot(self.error, other.error)
        return Jackknifed(self.value - other.value, error, min(self.blocks, other.blocks))

    def told(self) -> dict[str, Any]:
        """{"value", "low", "high"}: with the ends of the 95% interval, by Student's t."""
        half = scipy.stats.t.ppf((1 + LEVEL) / 2, max(self.blocks - 1, 1)) * self.error
        return {"value": self.value, "low": self.value - half, "high": self.value + half}


def jackknife(
    statistic: Callable[[Mapping[str, np.ndarray]], np.ndarray],
    blocks: Mapping[str, Float[np.ndarray, "K ..."]],
    filled: int,
) -> Jackknifed:
    """A statistic of sums, from those by block; the first `filled` blocks have examples."""
    totals = {k: v.sum(axis=0) for k, v in blocks.items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        found = [statistic(totals)]
        for i in range(filled):
            found.append(statistic({k: totals[k] - v[i] for k, v in blocks.items()}))
    value, *without = (np.asarray(one, float) for one in found)
    return jackknifed(value, without)


def jackknifed(
    value: Float[np.ndarray, "*N"], without: Sequence[Float[np.ndarray, "*N"]]
) -> Jackknifed:
    """A statistic of all examples, of what it is without each block that has some."""
    filled = len(without)
    if filled < 2:
        return Jackknifed(value, np.full(value.shape, np.nan), filled)
    spread = np.asarray(without, float) - np.mean(without, axis=0)
    error = np.asarray(np.sqrt((filled - 1) / filled * np.sum(spread**2, axis=0)))
    return Jackknifed(value, error, filled)


def stratified(
    statistic: Callable[[Mapping[str, np.ndarray]], np.ndarray],
    blocks: Mapping[str, Float[np.ndarray, "KB ..."]],
    counts: Mapping[str, int],
) -> Jackknifed:
    """A statistic of sums over examples of all kinds, those of one kind's blocks before the next's.

    Blocks are left out kind by kind, the other kinds being as they are, and the variances add up.
    """
    found = []
    for i, kind in enumerate(KINDS):
        own = {k: v[i * BLOCKS :][:BLOCKS] for k, v in blocks.items()}
        rest = {k: v.sum(axis=0) - own[k].sum(axis=0) for k, v in blocks.items()}

        def of_all(s: Mapping[str, np.ndarray], rest: Mapping = rest) -> np.ndarray:
            return statistic({k: v + rest[k] for k, v in s.items()})

        if counts[kind] or not any(counts.values()):
            found.append(jackknife(of_all, own, min(BLOCKS, counts[kind])))
    error = np.sqrt(np.sum([one.error**2 for one in found], axis=0))
    return Jackknifed(found[0].value, np.asarray(error), min(one.blocks for one in found))
