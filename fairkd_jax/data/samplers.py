"""Samplers: which rows of a split each batch draws, a pure function of (seed, step).

Where rows of like lengths go together, in buckets, every batch is of one bucket. Which one follows
from the split and the step alone, in shares that are those of the bucket among all draws: so each
example is drawn as often as without buckets, and runs of all seeds meet the same shapes.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fairkd_jax.data.dataset import Split
from fairkd_jax.registry import UnknownName

Buckets = Sequence[np.ndarray]  # row numbers
CHOICE = 2**63  # the number of the draw that chooses a subsample
TOLD = "draw"  # the table of how examples are drawn, where an earlier stage inferred it
NEVER = 2**31 - 1  # a step that does not come


class Draw(NamedTuple):
    """How a sampler draws."""

    rows: Callable[[int], np.ndarray]  # step -> row numbers of its batch, int64 [batch_size]
    epoch: int  # how many draws are an epoch
    bucket: Callable[[int], int]  # step -> the bucket of its rows


def _random(seed: int, number: int, count: int) -> np.ndarray:
    """`count` uniform numbers, a pure function of the arguments."""
    key = np.array([seed, number], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(count)


def _in_turn(draws: Sequence[Callable[[int], np.ndarray]], shares: np.ndarray, epoch: int) -> Draw:
    """Draws of buckets by turns: bucket b has, at any time, its share of the steps to within one.

    Its k-th turn is due after (k + 1/2) / share steps (Webster's method).
    """

    @functools.lru_cache(maxsize=2)
    def turns(count: int) -> tuple[np.ndarray, np.ndarray]:
        enough = np.where(shares > 0, np.floor((count + len(shares)) * shares + 1.5), 0).astype(int)
        bucket = np.repeat(np.arange(len(shares)), enough)
        number = np.concatenate([np.arange(n) for n in enough])
        order = np.lexsort((bucket, (number + 0.5) / shares[bucket]))[:count]
        return bucket[order], number[order]

    def turn(step: int) -> tuple[int, int]:
        bucket, number = turns(max(1024, 2 ** int(step).bit_length()))
        return int(bucket[step]), int(number[step])

    def rows(step: int) -> np.ndarray:
        bucket, number = turn(step)
        return draws[bucket](number)

    if len(draws) == 1:
        return Draw(draws[0], epoch, lambda step: 0)
    return Draw(rows, epoch, lambda step: turn(step)[0])


def _natural(split: Split, seed: int, batch_size: int, buckets: Buckets) -> Draw:
    """One permutation of all examples an epoch; a batch may end one epoch and begin the next."""
    return _epochs(buckets, seed, batch_size)


def _epochs(pools: Buckets, seed: int, batch_size: int) -> Draw:
    """Of each pool no example comes again before all have come."""
    sizes = np.array([len(pool) for pool in pools])
    draws = [_permuted(pool, seed, batch_size, i << 40) for i, pool in enumerate(pools)]
    return _in_turn(draws, sizes / max(sizes.sum(), 1), int(sizes.sum()))


def _permuted(
    pool: np.ndarray, seed: int, batch_size: int, first: int
) -> Callable[[int], np.ndarray]:
    @functools.lru_cache(maxsize=4)
    def permutation(epoch: int) -> np.ndarray:
        return pool[np.argsort(_random(seed, first + epoch, len(pool)), kind="stable")]

    def draw(number: int) -> np.ndarray:
        position = number * batch_size + np.arange(batch_size)
        epochs = position // len(pool)
        rows = [permutation(int(epoch)) for epoch in range(epochs[0], epochs[-1] + 1)]
        return np.concatenate(rows)[position - epochs[0] * len(pool)]

    return draw


Sampler = Callable[[Split, int, int, Buckets], Draw]


def _balanced(key: str) -> Sampler:
    """With replacement: a value of column `key` evenly, then one of its examples evenly."""

    def sampler(split: Split, seed: int, batch_size: int, buckets: Buckets) -> Draw:
        members = _members(split, key)
        inside = [[np.intersect1d(m, b, assume_unique=True) for m in members] for b in buckets]
        totals = np.array([len(rows) for rows in members])
        sizes = np.array([[len(rows) for rows in of_bucket] for of_bucket in inside])
        weights = sizes / totals / len(totals)  # of each value in each bucket; all sum to 1
        draws = []
        for i, of_bucket in enumerate(inside):
            starts = np.cumsum(sizes[i]) - sizes[i]
            upper = np.cumsum(weights[i])
            pool, upper = np.concatenate(of_bucket), upper / (upper[-1] or 1.0)
            draws.append(_weighted(pool, starts, sizes[i], upper, seed, batch_size, i << 40))
        return _in_turn(draws, weights.sum(axis=1), len(split))

    return sampler


def _weighted(
    pool: np.ndarray,
    starts: np.ndarray,
    sizes: np.ndarray,
    upper: np.ndarray,
    seed: int,
    batch_size: int,
    first: int,
) -> Callable[[int], np.ndarray]:
    last = int(np.flatnonzero(sizes).max(initial=0))

    def draw(number: int) -> np.ndarray:
        which, member = _random(seed, first + number, 2 * batch_size).reshape(2, batch_size)
        value = np.minimum(np.searchsorted(upper, which, side="right"), last)
        return pool[starts[value] + (member * sizes[value]).astype(np.int64)]

    return draw


def _subsampled(key: str) -> Sampler:
    """As many examples of each value of column `key` as the rarest has, chosen by the seed.

    Where there are buckets, each gives the same number whatever the seed: its share.
    """

    def sampler(split: Split, seed: int, batch_size: int, buckets: Buckets) -> Draw:
        members = _members(split, key)
        smallest = min(len(rows) for rows in members)
        order = _random(seed, CHOICE, len(split))
        pools: list[list[np.ndarray]] = [[] for _ in buckets]
        for rows in members:
            inside = [np.intersect1d(rows, bucket, assume_unique=True) for bucket in buckets]
            for pool, part, n in zip(pools, inside, _shares([*map(len, inside)], smallest)):
                pool.append(part[np.argsort(order[part], kind="stable")][:n])
        return _epochs([np.sort(np.concatenate(pool)) for pool in pools], seed, batch_size)

    return sampler


def _shares(sizes: list[int], total: int) -> np.ndarray:
    """`total` shared out in proportion to sizes, of which it is no more, by largest remainders."""
    exact = np.array(sizes) * total / max(sum(sizes), 1)
    found = np.floor(exact).astype(int)
    rest = np.argsort(found - exact, kind="stable")[: total - int(found.sum())]
    found[rest] += 1
    return found


def _members(split: Split, key: str) -> list[np.ndarray]:
    """Row numbers by value of column `key`; ValueError if a value has none."""
    names = split.info.label_names if key == "label" else split.info.group_names
    members = [np.flatnonzero(split.columns[key] == i) for i in range(len(names))]
    empty = [name for name, rows in zip(names, members) if not len(rows)]
    if empty:
        raise ValueError(
            f"cannot sample by {key}: no example of {'; '.join(empty)} "
            f"(there are {[len(rows) for rows in members]})"
        )
    return members


SAMPLERS: Mapping[str, Sampler] = {
    "natural": _natural,
    "class_balanced": _balanced("label"),
    "group_balanced": _balanced("group"),
    "subsampled_classes": _subsampled("label"),
    "subsampled_groups": _subsampled("group"),
}


def draw_by(
    sampler: str, split: Split, seed: int, batch_size: int, buckets: Buckets | None = None
) -> Draw:
    """How a sampler draws batches of a split, from all rows or bucket by bucket.

    Raises UnknownName for an unknown sampler, ValueError for an empty class or group that is to be
    sampled.
    """
    if sampler not in SAMPLERS:
        raise UnknownName(sampler, "sampler", SAMPLERS)
    buckets = [np.arange(len(split))] if buckets is None else buckets
    return SAMPLERS[sampler](split, seed, batch_size, buckets)


def draw_as_told(columns: Mapping[str, np.ndarray], seed: int, batch_size: int) -> Draw:
    """How batches are drawn by the columns of a table, a row an example.

    "first" is the step from which on an example may be drawn (left out: 0; `NEVER`: at none),
    "weight" how often it is drawn, beside others (left out: alike). With replacement; but where the
    pool is always the same, and all weigh alike, no example comes again before all have come.
    Raises ValueError where nothing may be drawn at first.
    """
    rows = len(next(iter(columns.values())))
    first = np.asarray(columns.get("first", np.zeros(rows)))
    weight = np.asarray(columns.get("weight", np.ones(rows)), np.float64)
    order = np.argsort(first, kind="stable")
    order = order[(weight[order] > 0) & (first[order] < NEVER)]
    if not len(order) or first[order[0]] > 0 or weight.min() < 0:
        raise ValueError(
            f"how examples are drawn: of {rows} none may be drawn in the first step, or some weigh "
            f"less than 0 (the least weight is {weight.min():.3g})"
        )
    first, weight = first[order], weight[order]
    if first[-1] <= 0 and np.ptp(weight) == 0:
        return _epochs([np.sort(order)], seed, batch_size)
    upper = np.cumsum(weight)

    def draw(step: int) -> np.ndarray:
        size = int(np.searchsorted(first, step, side="right"))
        drawn = _random(seed, step, batch_size) * upper[size - 1]
        place = np.searchsorted(upper[:size], drawn, side="right")
        return order[np.minimum(place, size - 1)]

    return Draw(draw, len(order), lambda step: 0)
