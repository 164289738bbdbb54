"""Samplers: which rows of a source each batch draws, a pure function of (seed, step)."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from fairkd_jax.data.source import Source
from fairkd_jax.registry import UnknownName


class Draw(NamedTuple):
    """How a sampler draws."""

    rows: Callable[[int], np.ndarray]  # step -> row numbers of its batch, int64 [batch_size]
    epoch: int  # how many draws are an epoch


def _random(seed: int, number: int, count: int) -> np.ndarray:
    """`count` uniform numbers, a pure function of the arguments."""
    key = np.array([seed, number], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(count)


def _natural(source: Source, seed: int, batch_size: int) -> Draw:
    """One permutation of all examples an epoch; a batch may end one epoch and begin the next."""
    return _epochs(np.arange(len(source)), seed, batch_size)


def _epochs(pool: np.ndarray, seed: int, batch_size: int) -> Draw:
    @functools.lru_cache(maxsize=4)
    def permutation(epoch: int) -> np.ndarray:
        return pool[np.argsort(_random(seed, epoch, len(pool)), kind="stable")]

    def draw(step: int) -> np.ndarray:
        position = step * batch_size + np.arange(batch_size)
        epochs = position // len(pool)
        rows = [permutation(int(epoch)) for epoch in range(epochs[0], epochs[-1] + 1)]
        return np.concatenate(rows)[position - epochs[0] * len(pool)]

    return Draw(draw, len(pool))


def _balanced(key: str) -> Callable[[Source, int, int], Draw]:
    """With replacement: a value of column `key` evenly, then one of its examples evenly."""

    def sampler(source: Source, seed: int, batch_size: int) -> Draw:
        members = _members(source, key)
        sizes = np.array([len(rows) for rows in members])
        starts, pool = np.cumsum(sizes) - sizes, np.concatenate(members)

        def draw(step: int) -> np.ndarray:
            which, member = _random(seed, step, 2 * batch_size).reshape(2, batch_size)
            value = (which * len(sizes)).astype(np.int64)
            return pool[starts[value] + (member * sizes[value]).astype(np.int64)]

        return Draw(draw, len(source))

    return sampler


def _subsampled(key: str) -> Callable[[Source, int, int], Draw]:
    """As many examples of each value of column `key` as the rarest has, chosen by the seed."""

    def sampler(source: Source, seed: int, batch_size: int) -> Draw:
        members = _members(source, key)
        smallest = min(len(rows) for rows in members)
        order = _random(seed, 2**63, len(source))
        chosen = [rows[np.argsort(order[rows], kind="stable")][:smallest] for rows in members]
        return _epochs(np.sort(np.concatenate(chosen)), seed, batch_size)

    return sampler


def _members(source: Source, key: str) -> list[np.ndarray]:
    """Row numbers by value of column `key`; ValueError if a value has none."""
    names = source.split.info.label_names if key == "label" else source.split.info.group_names
    members = [np.flatnonzero(source.split.columns[key] == i) for i in range(len(names))]
    empty = [name for name, rows in zip(names, members) if not len(rows)]
    if empty:
        raise ValueError(
            f"cannot sample by {key}: no example of {'; '.join(empty)} "
            f"(there are {[len(rows) for rows in members]})"
        )
    return members


SAMPLERS: Mapping[str, Callable[[Source, int, int], Draw]] = {
    "natural": _natural,
    "class_balanced": _balanced("label"),
    "group_balanced": _balanced("group"),
    "subsampled_classes": _subsampled("label"),
    "subsampled_groups": _subsampled("group"),
}


def draw_by(sampler: str, source: Source, seed: int, batch_size: int) -> Draw:
    """How a sampler draws batches from a source.

    Raises UnknownName for an unknown sampler, ValueError for an empty class or group that is to be
    sampled.
    """
    if sampler not in SAMPLERS:
        raise UnknownName(sampler, "sampler", SAMPLERS)
    return SAMPLERS[sampler](source, seed, batch_size)
