"""From a data config to batches: batch number i is a pure function of (seed, i).

Resuming therefore needs no iterator state: it is `batches[step:]`. Examples are encoded once and
kept in memory; a batch is a gather of rows.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import grain
import numpy as np

from fairkd_jax import files, registry
from fairkd_jax.config import Data, Plugin, as_dict
from fairkd_jax.data.dataset import DataSet, Encoder, Split
from fairkd_jax.data.tables import Table
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Batch, Inputs, Path

KEPT_BYTES = 2**30  # views of a split that would be larger are encoded batch by batch
ROWS_AT_ONCE = 4096  # while encoding: bounds the memory beside the result


class Source:
    """The examples of a split, encoded by every view: rows by number."""

    def __init__(self, split: Split, encoders: Mapping[str, Encoder]):
        self.split = split
        self._encoders = encoders
        self._kept = {name: self._keep(encoder) for name, encoder in encoders.items()}

    def __len__(self) -> int:
        return len(self.split)

    def batch(self, rows: np.ndarray) -> Batch:
        """The examples of the given row numbers."""
        views = {
            name: Inputs(
                encoder.encode({k: v[rows] for k, v in self.split.columns.items()})
                if self._kept[name] is None
                else {k: v[rows] for k, v in self._kept[name].items()},
                encoder.facts["identity"],
            )
            for name, encoder in self._encoders.items()
        }
        columns = {k: self.split.columns[k][rows] for k in ("label", "attribute", "group", "id")}
        return {"views": views, **columns, "real": np.ones(len(rows), np.float32)}

    def augment(self, batch: Batch, seed: int, step: int) -> Batch:
        """The batch as training sees it at a step: what views draw is drawn."""
        views = {
            name: Inputs(
                self._encoders[name].augment(dict(arrays), batch["id"], seed, step),
                arrays.identity,
            )
            for name, arrays in batch["views"].items()
        }
        return batch | {"views": views}

    def require(self, view: str, rows: Mapping[str, int]) -> None:
        """Raises ValueError, with an example, where arrays of a view name rows that a net lacks.

        `rows` are those of `Architecture.rows`. What is too large to be kept is not looked at: such
        numbers then give NaN, which stops what runs.
        """
        kept = self._kept[view] or {}
        for name in rows.keys() & kept.keys():
            beyond = np.argwhere(kept[name] >= rows[name])
            if len(beyond):
                where = tuple(beyond[0])
                row, number = where[0], kept[name][where]
                identity = self.split.columns["id"][row]
                raw = {k: v[row] for k, v in self.split.columns.items() if v.dtype.kind in "UTO"}
                raise ValueError(
                    f"view {view!r} has {name} up to {kept[name].max()}, but the net's table has "
                    f"{rows[name]} rows: example {identity} has {number}: {raw}"
                )

    def _keep(self, encoder: Encoder) -> dict[str, np.ndarray] | None:
        one = encoder.encode({k: v[:1] for k, v in self.split.columns.items()})
        if sum(array.nbytes for array in one.values()) * len(self) > KEPT_BYTES:
            return None
        blocks = [
            encoder.encode({k: v[i : i + ROWS_AT_ONCE] for k, v in self.split.columns.items()})
            for i in range(0, len(self), ROWS_AT_ONCE)
        ]
        return {k: np.concatenate([block[k] for block in blocks]) for k in one}


@dataclasses.dataclass(frozen=True)
class Opened:
    """A data set with its views fitted on the training split."""

    data: Data
    dataset: DataSet
    train: Split  # the one that `data.split` names
    encoders: Mapping[str, Encoder]
    facts: Mapping[str, Mapping[str, Any]]  # what nets must know, by view

    def source(self, split: str, set_spec: Plugin | None = None) -> Source:
        """A split of this set, or of another, as this set's views encode it.

        Raises UnknownName for a split that is not there or a set without the views' columns.
        """
        own = _key(self.data.set)
        other = own if set_spec is None else _key(set_spec)
        return _source(*_views(own, _key(self.data.views)), *_content(other, split))


def open_data(data: Data) -> Opened:
    """The data of a config. Sets, splits, fitted views and sources are kept within the process.

    Raises UnknownName for an unknown set, view, option or split, ValueError for a split whose
    examples by group are not those that the set expects.
    """
    set_key = _key(data.set)
    encoders = _encoders(*_views(set_key, _key(data.views)))
    facts = {name: encoder.facts for name, encoder in encoders.items()}
    split = _split(*_content(set_key, data.split))
    return Opened(data, _dataset(set_key), split, encoders, facts)


def _key(config: Any) -> str:
    return json.dumps(as_dict(config), sort_keys=True)


@functools.lru_cache(maxsize=16)
def _dataset(set_key: str) -> DataSet:
    return registry.build("sets", json.loads(set_key))


Content = tuple[tuple[str, str], ...]  # (name, digest) of each file that is read


def _content(set_key: str, split: str) -> tuple[str, str, Content]:
    """A split by its set, its name and what its files hold now: what is kept is never stale."""
    dataset = _dataset(set_key)
    dataset.require(split)
    return set_key, split, _digests(dataset.reads(split))


def _views(set_key: str, views_key: str) -> tuple[str, str, Content]:
    """Fitted views by set, options, and what the files hold that they and the set read."""
    views = {k: registry.build("views", spec) for k, spec in json.loads(views_key).items()}
    named = {f"{k} {name}": path for k, v in views.items() for name, path in v.reads().items()}
    return set_key, views_key, (*_content(set_key, "train")[2], *_digests(named))


def _digests(named: Mapping[str, Path]) -> Content:
    return tuple((name, files.digest(path)) for name, path in named.items())


@functools.lru_cache(maxsize=16)
def _split(set_key: str, split: str, content: Content) -> Split:
    dataset = _dataset(set_key)
    loaded = dataset.load(split)
    if _digests(dataset.reads(split)) != content:
        paths = ", ".join(map(str, dataset.reads(split).values()))
        raise ValueError(f"{paths} changed while it was read: launch again when it is whole")
    expected = loaded.info.expected_counts.get(split)
    if expected is not None and tuple(loaded.counts()) != tuple(expected):
        raise ValueError(
            f"split {split!r} of {set_key} has {loaded.counts().tolist()} examples by group, "
            f"expected {list(expected)}"
        )
    return loaded


@functools.lru_cache(maxsize=16)
def _encoders(set_key: str, views_key: str, content: Content) -> Mapping[str, Encoder]:
    views = json.loads(views_key)
    train = _split(*_content(set_key, "train"))
    return {name: registry.build("views", spec).fit(train) for name, spec in views.items()}


@functools.lru_cache(maxsize=16)
def _source(
    set_key: str, views_key: str, views: Content, other_key: str, split: str, content: Content
) -> Source:
    return Source(_split(other_key, split, content), _encoders(set_key, views_key, views))


def train_batches(
    source: Source,
    *,
    seed: int,
    steps: int,
    batch_size: int,
    sampler: str = "natural",
    tables: Mapping[str, Table] | None = None,
    hide_attributes: bool = False,
    augment: bool = True,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """`steps` training batches of numpy arrays by number; `batch_size` is over all processes.

    Every process gets its contiguous slice of the rows of every batch. `tables` are joined by
    example id. `hide_attributes` leaves "attribute" and "group" out of the batches, and
    `augment` = False what views draw at random.
    Raises UnknownName for an unknown sampler, ValueError for a batch that does not divide, an
    empty class or group that is to be sampled, or examples without a row in a table.
    """
    draw = _draw(source, sampler, seed, batch_size)
    mine = _slice(batch_size, process_index, process_count)
    joined = _join(source, tables or {})

    def load(step: int) -> Batch:
        batch = joined(draw.rows(int(step))[mine])
        batch = source.augment(batch, seed, int(step)) if augment else batch
        if hide_attributes:
            del batch["attribute"], batch["group"]
        return batch

    return grain.MapDataset.range(steps).map(load)


def epoch_size(source: Source, sampler: str = "natural") -> int:
    """How many examples are drawn in an epoch: those drawn from, or all where some come again.

    Raises as `train_batches` does for its sampler.
    """
    return _draw(source, sampler, 0, 1).epoch


def _draw(source: Source, sampler: str, seed: int, batch_size: int) -> "Draw":
    if sampler not in SAMPLERS:
        raise UnknownName(sampler, "sampler", SAMPLERS)
    return SAMPLERS[sampler](source, seed, batch_size)


def eval_batches(
    source: Source,
    batch_size: int,
    *,
    tables: Mapping[str, Table] | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """Every example once, in order, in batches of one shape, sliced over processes as in training.

    The last batch is filled with copies of the first example that have "real" 0. Where the set
    names subpopulations, batches have "member", which those of training never have.
    """
    mine = _slice(batch_size, process_index, process_count)
    joined = _join(source, tables or {})
    scored = {k: v for k, v in source.split.columns.items() if k == "member"}

    def load(number: int) -> Batch:
        rows = (int(number) * batch_size + np.arange(batch_size))[mine]
        real, rows = rows < len(source), np.where(rows < len(source), rows, 0)
        member = {k: v[rows] for k, v in scored.items()}
        return joined(rows) | member | {"real": real.astype(np.float32)}

    return grain.MapDataset.range(-(-len(source) // batch_size)).map(load)


def prefetched(batches: grain.MapDataset, start: int = 0) -> Iterator[Batch]:
    """Batches from number `start` on, loaded ahead by a thread while the device computes."""
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(batches[start:].to_iter_dataset(options))


def _slice(batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size = {batch_size} does not divide over {process_count} processes"
        )
    local = batch_size // process_count
    return slice(process_index * local, (process_index + 1) * local)


def _join(source: Source, tables: Mapping[str, Table]) -> Callable[[np.ndarray], Batch]:
    """Rows -> batch with the tables' columns."""
    places = {name: table.rows(source.split.columns["id"]) for name, table in tables.items()}

    def batch(rows: np.ndarray) -> Batch:
        joined = {
            name: {k: np.asarray(v[places[name][rows]]) for k, v in table.columns.items()}
            for name, table in tables.items()
        }
        return source.batch(rows) | ({"tables": joined} if joined else {})

    return batch


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
