"""How far a batch is padded: to one of a few static lengths, so that few programs are compiled.

All that is decided here follows from the lengths of the rows of a split, which every process knows.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from fairkd_jax.data.source import Source
from fairkd_jax.registry import UnknownName

FEW = 4  # lengths of a split at most: each is a program to compile
WORTH = 0.07  # share of what is computed that one more length must save
FILLED = 4  # batches that a bucket can fill at least


def ladder(limit: int) -> np.ndarray:
    """Lengths to choose from, ascending: steps of 8, from 64 on of an eighth; the last is `limit`.

    Multiples of 8 suit vector units; finer steps would save little.
    """
    rungs, rung = [], 8
    while rung < limit:
        rungs.append(rung)
        rung += max(8, 2 ** int(np.log2(rung)) // 8)
    return np.array([*rungs, limit])


def chosen(lengths: np.ndarray, limit: int, batch_size: int = 1, fewest: int = 1) -> np.ndarray:
    """The few lengths, ascending, to which batches of random rows are best padded.

    `fewest` rows lie between two of them. For the lengths of single rows, `batch_size` 1; the
    longest of n independent rows is at most l with probability F(l) ** n.
    """
    rungs = ladder(limit)
    counts = np.searchsorted(np.sort(lengths), rungs, side="right")
    share = (counts / max(len(lengths), 1)) ** batch_size
    best = [int(np.argmax(counts == len(lengths)))]  # the first that holds all

    def cost(places: list[int]) -> float:
        return float(np.sum(rungs[places] * np.diff(share[places], prepend=0.0)))

    while len(best) < FEW:
        tries = [
            sorted([*best, place])
            for place in range(best[-1])
            if place not in best
            and np.diff(counts[sorted([*best, place])], prepend=0).min() >= fewest
        ]
        better = min(tries, key=cost, default=best)
        if cost(better) > (1 - WORTH) * cost(best):
            break
        best = better
    return rungs[best]


@dataclasses.dataclass(frozen=True)
class Padding:
    """The buckets of a split, and the lengths of the views of a batch."""

    buckets: Sequence[np.ndarray]  # row numbers, ascending; of one bucket unless rows are sorted
    lengths: Callable[[np.ndarray, int], dict[str, int]]  # rows of a batch, its bucket -> by view


def ragged(source: Source, views: Collection[str] | None) -> dict[str, np.ndarray]:
    """The lengths of all rows, int32 [N], of each of the views (None: all) that has lengths."""
    names = source.encoders if views is None else views
    found = {name: source.view(name).lengths for name in sorted(names)}
    return {name: lengths for name, lengths in found.items() if lengths is not None}


def _fixed(source: Source, lengths: Mapping[str, np.ndarray], batch_size: int) -> Padding:
    """Every view to its own length, whatever the rows."""
    return Padding([np.arange(len(source))], lambda rows, bucket: {})


def _longest(source: Source, lengths: Mapping[str, np.ndarray], batch_size: int) -> Padding:
    """To the longest row of the global batch, rounded up."""
    rungs = {k: chosen(v, _limit(source, k), batch_size) for k, v in lengths.items()}

    def of(rows: np.ndarray, bucket: int) -> dict[str, int]:
        return {k: _up(rungs[k], int(v[rows].max(initial=0))) for k, v in lengths.items()}

    return Padding([np.arange(len(source))], of)


def _bucket(source: Source, lengths: Mapping[str, np.ndarray], batch_size: int) -> Padding:
    """Rows of like lengths, summed over views; each bucket to its longest row, rounded up."""
    if not lengths:
        return _fixed(source, lengths, batch_size)
    total, limit = sum(lengths.values()), sum(_limit(source, k) for k in lengths)
    rungs = chosen(total, limit, fewest=FILLED * batch_size)
    place = np.searchsorted(rungs, total)
    buckets = [np.flatnonzero(place == i) for i in range(len(rungs))]
    padded = [
        {k: _up(ladder(_limit(source, k)), int(v[rows].max())) for k, v in lengths.items()}
        for rows in buckets
    ]
    return Padding(buckets, lambda rows, bucket: padded[bucket])


PADDINGS: Mapping[str, Callable[[Source, Mapping[str, np.ndarray], int], Padding]] = {
    "longest": _longest,
    "bucket": _bucket,
    "fixed": _fixed,
}


def padding_of(
    name: str, source: Source, batch_size: int, views: Collection[str] | None = None
) -> Padding:
    """The padding of that name for batches of a source. Raises UnknownName."""
    if name not in PADDINGS:
        raise UnknownName(name, "data.padding", PADDINGS)
    return PADDINGS[name](source, ragged(source, views) if name != "fixed" else {}, batch_size)


def sorted_rows(
    source: Source, views: Collection[str] | None = None
) -> tuple[np.ndarray, Callable[[np.ndarray], dict[str, int]]]:
    """(all rows, the shortest first; rows of a batch -> lengths by view)."""
    lengths = ragged(source, views)
    rungs = {k: chosen(v, _limit(source, k)) for k, v in lengths.items()}
    total = sum(lengths.values(), start=np.zeros(len(source), np.int64))

    def of(rows: np.ndarray) -> dict[str, int]:
        return {k: _up(rungs[k], int(v[rows].max(initial=0))) for k, v in lengths.items()}

    return np.argsort(total, kind="stable"), of


def _limit(source: Source, view: str) -> int:
    return source.encoders[view].facts["length"]


def _up(rungs: np.ndarray, length: int) -> int:
    """The first of the lengths that is long enough."""
    return int(rungs[np.searchsorted(rungs, length)])
