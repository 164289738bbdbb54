"""From a data config to batches: batch number i is a pure function of (seed, i).

Resuming therefore needs no iterator state: it is `batches[step:]`. Tokens are encoded once, for all
launches; a batch is a gather of rows, of which each process reads its own.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import grain
import numpy as np

from fairkd_jax import files, registry
from fairkd_jax.config import Data, Plugin, as_dict
from fairkd_jax.data import kept_splits, mixture, strength
from fairkd_jax.data.dataset import DataSet, Encoder, Split
from fairkd_jax.data.padding import padding_of, ragged, sorted_rows
from fairkd_jax.data.resident import Rows
from fairkd_jax.data.samplers import TOLD, draw_as_told
from fairkd_jax.data.source import Source
from fairkd_jax.data.tables import Table
from fairkd_jax.types import Batch, Path


@dataclasses.dataclass(frozen=True)
class Opened:
    """A data set with its views fitted on the training split."""

    data: Data
    dataset: DataSet
    train: Split  # the one that `data.split` names, whole
    encoders: Mapping[str, Encoder]
    facts: Mapping[str, Mapping[str, Any]]  # what nets must know, by view

    def source(self, split: str, set_spec: Plugin | None = None) -> Source:
        """A split of this set, or of another, as this set's views encode it.

        Of what is trained on that part that the knobs of `strength.py` choose. Raises UnknownName
        for a split that is not there or a set without the views' columns.
        """
        own = _key(self.data.set)
        other = own if set_spec is None else _key(set_spec)
        found = _source(*_views(own, _key(self.data.views)), *_content(other, split))
        if other != own:
            found.try_views()
        trained = set_spec is None and split == strength.SPLIT
        asked = strength.of(self.data) if trained else None
        return strength.part(found, asked) if asked else found

    def drawn(
        self, split: str | None = None, augment: Mapping[str, Plugin] | None = None
    ) -> Source:
        """What training draws from: a split and what augmentations add to it, else the config's.

        Raises as `mixture.build` and `mixture.Mixture` do.
        """
        augment = self.data.augment if augment is None else augment
        split = split or self.data.split
        if not augment:
            return self.source(split)
        built = mixture.build(augment)
        named = {f"{k} {n}": path for k, one in built.items() for n, path in one.reads().items()}
        views = _views(_key(self.data.set), _key(self.data.views))
        return _mixed(self.source(split), views, _key(augment), _digests(named))


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
    """What was read from files is read once; what is made by a program is made at every launch."""
    if not content:
        return _loaded(set_key, split, content)
    dataset = _dataset(set_key)
    key = kept_splits.key_of(dataset, json.loads(set_key), split, content)
    return kept_splits.split(key, dataset, lambda: _loaded(set_key, split, content))


@functools.lru_cache(maxsize=1)  # texts of a large split are a burden
def _loaded(set_key: str, split: str, content: Content) -> Split:
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


@functools.lru_cache(maxsize=4)  # each holds the split anew
def _mixed(
    source: Source, views: tuple[str, str, Content], augment_key: str, read: Content
) -> Source:
    augmentations = mixture.build(json.loads(augment_key))
    return mixture.Mixture(source, _dataset(views[0]), augmentations)


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
    padding: str = "longest",
    views: Collection[str] | None = None,
    resident: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """`steps` training batches of numpy arrays by number; `batch_size` is over all processes.

    Every process gets its contiguous slice of the rows of every batch. `tables` are joined by
    example id; the one called "draw" says how examples are drawn. `hide_attributes` leaves
    "attribute" and "group" out of the batches, and `augment` = False what views and augmentations
    change at random. `padding` is one of `padding.PADDINGS`, for all rows of a batch alike; `views`
    are those that are wanted, None: all. `resident`: a batch is `resident.Rows`, for a split that
    is on the devices.
    Raises UnknownName for an unknown sampler or padding, ValueError for a batch that does not
    divide, an empty class or group that is to be sampled, or examples without a row in a table.
    """
    mine = _slice(batch_size, process_index, process_count)
    padded = padding_of(padding, source, batch_size, views)
    tables = dict(tables or {})
    if told := tables.pop(TOLD, None):
        draw = draw_as_told(told.join(source.split.columns["id"]), seed, batch_size)
    else:
        draw = source.draw(sampler, seed, batch_size, padded.buckets)
    joined = _join(source, tables, views)

    def load(step: int) -> Any:
        rows = draw.rows(int(step))
        if resident:
            lengths = padded.lengths(rows, draw.bucket(int(step)))
            every = {k: source.encoders[k].facts["length"] for k in ragged(source, views)}
            return Rows(rows[mine].astype(np.int32), tuple(sorted((every | lengths).items())))
        batch = joined(rows[mine], padded.lengths(rows, draw.bucket(int(step))))
        batch = source.augment(batch, seed, int(step)) if augment else batch
        batch = source.with_labelled(batch, hide_attributes)
        if hide_attributes:
            del batch["attribute"], batch["group"]
        return batch

    return grain.MapDataset.range(steps).map(load)


def epoch_size(source: Source, sampler: str = "natural", batch_size: int = 1) -> int:
    """How many examples are drawn in an epoch: those drawn from, or all where some come again.

    Extra ones, drawn beside them in batches of this size, count too. Raises as `train_batches`
    does for its sampler.
    """
    return source.draw(sampler, 0, batch_size).epoch


def eval_batches(
    source: Source,
    batch_size: int,
    *,
    tables: Mapping[str, Table] | None = None,
    views: Collection[str] | None = None,
    in_order: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """Every example once, sliced over processes as in training, of one shape or a few.

    The shortest come first, so that little is padded; `in_order`: as the split has them. The last
    batch is filled with copies of one example that have "real" 0. Where the set names
    subpopulations, batches have "member", which those of training never have.
    """
    mine = _slice(batch_size, process_index, process_count)
    joined = _join(source, tables or {}, views)
    order, lengths = sorted_rows(source, views)
    order = np.arange(len(source)) if in_order else order
    scored = {k: v for k, v in source.split.columns.items() if k == "member"}

    def load(number: int) -> Batch:
        place = int(number) * batch_size + np.arange(batch_size)
        real = place < len(source)
        rows = order[np.where(real, place, 0)]
        member = {k: np.asarray(v[rows[mine]]) for k, v in scored.items()}
        batch = joined(rows[mine], lengths(rows)) | member
        batch = source.with_labelled(batch, hide_attributes=True)
        return batch | {"real": real[mine].astype(np.float32)}

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


def _join(
    source: Source, tables: Mapping[str, Table], views: Collection[str] | None
) -> Callable[[np.ndarray, Mapping[str, int]], Batch]:
    """Rows and lengths -> batch with the tables' columns."""
    places = {name: table.rows(source.split.columns["id"]) for name, table in tables.items()}

    def batch(rows: np.ndarray, lengths: Mapping[str, int]) -> Batch:
        joined = {
            name: {k: np.asarray(v[places[name][rows]]) for k, v in table.columns.items()}
            for name, table in tables.items()
        }
        return source.batch(rows, lengths, views) | ({"tables": joined} if joined else {})

    return batch
