"""What training draws from: a split, extra examples at stated shares, and changes by chance.

Of a batch of B, each augmentation that gives extra examples has the last `rate * B` rows, rounded,
one at least; the sampler draws the others from the split. So a batch stays a pure function of
(seed, step), and each share is met in every batch.
"""

import copy
import dataclasses
import functools
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from fairkd_jax import registry
from fairkd_jax.data.augmentation import Augmentation, conflicts, groups_of, require_both
from fairkd_jax.data.dataset import Column, DataSet, Split, draws
from fairkd_jax.data.encoded import Encoded, Ends, encoded
from fairkd_jax.data.samplers import Buckets, Draw, draw_by
from fairkd_jax.data.source import Source
from fairkd_jax.registry import name_of
from fairkd_jax.types import Batch

OWN = ("label", "attribute", "group", "id")
UNKNOWN = "label or attribute is not known"


def build(augment: Mapping[str, Any]) -> dict[str, Augmentation]:
    """The augmentations of a data config, in the order of their names.

    Raises what `registry.build` does, naming the place, and ValueError for shares of extra
    examples that leave nothing of a batch.
    """
    made = {}
    for name in sorted(augment):
        if not isinstance(augment[name], Mapping):
            raise ValueError(
                f"data.augment.{name} = {augment[name]!r}: expected a dict such as "
                f"{{'name': ..., 'rate': 0.25}}. Choices: {', '.join(registry.choices('augment'))}"
            )
        made[name] = registry.build("augment", augment[name])
    shares = {name: one.rate for name, one in made.items() if not one.changes_inputs}
    if sum(shares.values()) >= 1:
        raise ValueError(f"data.augment: rates of extra examples {shares} must sum to less than 1")
    return made


def finite(augment: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a config that give extra examples, without what only says how they are drawn."""
    drawn = ("rate", "roles", "conflicting")
    return {
        name: {k: v for k, v in augment[name].items() if k not in drawn}
        for name, one in build(augment).items()
        if not one.changes_inputs
    }


def of_role(augment: Mapping[str, Any], role: str) -> dict[str, Any]:
    """Those of a config that take part in the training of a role's nets."""
    return {
        name: {k: v for k, v in augment[name].items() if k != "roles"}
        for name, one in build(augment).items()
        if role in one.roles
    }


class Joined(Column):
    """Columns end to end, none of which need be in memory."""

    def __init__(self, parts: list[np.ndarray | Column]):
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        self.dtype = parts[0].dtype
        self.shape = (int(self._ends[-1]), *parts[0].shape[1:])

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        rows = np.arange(len(self))[rows]
        which = np.searchsorted(self._ends, rows, side="right")
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for i, part in enumerate(self._parts):
            mine = which == i
            if mine.any():
                found[mine] = part[rows[mine] - (self._ends[i] - len(part))]
        return found


class Mixture(Source):
    """A split and what augmentations add to it, encoded: first the split's rows, then extra ones.

    The ids of extra examples follow the split's largest. Raises ValueError for an augmentation that
    needs a raw column which the set lacks, or that gives nothing.
    """

    def __init__(self, source: Source, dataset: DataSet, augmentations: Mapping[str, Augmentation]):
        self.train, self.augmentations, self._own = source.split, augmentations, source
        train = source.split
        self.pools: dict[str, np.ndarray] = {}  # rows by augmentation that gives extra examples
        parts, rows, identity = [train], len(train), int(train.columns["id"].max()) + 1
        for name, one in augmentations.items():
            for column in one.needs:
                if column not in train.columns:
                    there = ", ".join(sorted(train.columns.keys() - {*OWN})) or "none"
                    raise ValueError(
                        f"data.augment.{name} ({name_of(type(one))}) reads a raw column {column!r}"
                        f", which the data set does not have: it has {there}"
                    )
            if one.changes_inputs:
                continue
            try:
                made = one.examples(train, dataset)
            except ValueError as error:
                raise ValueError(f"data.augment.{name}: {error}") from error
            made = _part(made, np.flatnonzero(dataset.may_train(made.columns)))
            if not len(made):
                raise ValueError(f"data.augment.{name}: no example of this set gives an extra one")
            ids = np.arange(identity, identity + len(made), dtype=np.int32)
            parts.append(Split({**made.columns, "id": ids}, made.info))
            self.pools[name] = np.arange(rows, rows + len(made))
            rows, identity = rows + len(made), identity + len(made)
        super().__init__(_joined(parts) if self.pools else train, source.encoders)
        self._order = np.argsort(self.split.columns["id"], kind="stable")

    def encoded(self, view: str) -> Encoded:
        own, size = self._own.view(view), len(self.train)
        if not self.pools:
            return own
        extra = _part(self.split, np.arange(size, len(self)))
        return Ends(own, encoded(extra, self.encoders[view]), size)

    @functools.cached_property
    def changes(self) -> dict[str, Augmentation]:
        """The augmentations that change what is drawn."""
        return {k: one for k, one in self.augmentations.items() if one.changes_inputs}

    @functools.cached_property
    def known(self) -> Mapping[bool, np.ndarray]:
        """By row, 1 where label and attribute are known; of [True], where the label is."""
        ones = np.ones(len(self), np.float32)
        labelled, grouped = (self.split.columns.get(k, ones) for k in ("labelled", "grouped"))
        return {True: labelled, False: labelled * grouped}

    def extra(self) -> dict[str, Split]:
        """Extra examples whose group is known; the others are left out, and counted."""
        found = {}
        for name, pool in self.pools.items():
            known = self.known[False][pool] > 0
            unknown = int(np.sum(~known))
            found[name] = dataclasses.replace(
                _part(self.split, pool[known]), left_out={UNKNOWN: unknown} if unknown else {}
            )
        return found

    def sizes(self, batch_size: int) -> dict[str, int]:
        """How many extra examples of each augmentation a batch has.

        Raises ValueError where they leave no room for others.
        """
        sizes = {k: max(1, round(self.augmentations[k].rate * batch_size)) for k in self.pools}
        if sum(sizes.values()) >= batch_size:
            raise ValueError(
                f"data.augment: of a batch of {batch_size}, extra examples {sizes} leave none that "
                "are of the training split: lower their rates, or raise train.batch_size"
            )
        return sizes

    def draw(
        self, sampler: str, seed: int, batch_size: int, buckets: Buckets | None = None
    ) -> Draw:
        """As the sampler draws from the split, then extra ones: each once before one comes again.

        An epoch is one of the split, and what is drawn beside it. Raises ValueError for extra ones
        that would be drawn bucket by bucket.
        """
        if not self.pools:
            return super().draw(sampler, seed, batch_size, buckets)
        if buckets is not None and len(buckets) > 1:
            raise ValueError(
                f"data.padding = 'bucket' with the extra examples of {', '.join(self.pools)}, each "
                "a share of every batch: they lie in all buckets. Use padding = 'longest'"
            )
        sizes = self.sizes(batch_size)
        own = batch_size - sum(sizes.values())
        first = draw_by(sampler, self.train, seed, own)
        parts = [first.rows]
        for name, size in sizes.items():
            for pool, count, stream in self._kinds(name, size):
                # a seed of its own: those of runs are below 2^32
                own_seed = seed + _stream(stream) * 2**32
                parts.append(draw_by("natural", self.split, own_seed, count, [pool]).rows)
        epoch = round(first.epoch * batch_size / own)
        return Draw(
            lambda step: np.concatenate([part(step) for part in parts]), epoch, lambda step: 0
        )

    def _kinds(self, name: str, size: int) -> list[tuple[np.ndarray, int, str]]:
        """(rows, how many of them in a batch, what their numbers are drawn by) of extra ones."""
        pool, share = self.pools[name], self.augmentations[name].conflicting
        if share is None:
            return [(pool, size, name)]
        if not self.known[False][pool].all():
            raise ValueError(
                f"data.augment.{name}: conflicting = {share}, but of some of its examples no one "
                "knows the label or the attribute"
            )
        wrong = conflicts(self.split)[pool]
        pools = pool[~wrong], pool[wrong]
        require_both(pools, share, f"data.augment.{name}")
        count = round(share * size)
        kinds = (
            (pools[0], size - count, f"{name} aligned"),
            (pools[1], count, f"{name} conflicting"),
        )
        return [kind for kind in kinds if kind[1]]

    def counts(self, batch_size: int) -> np.ndarray:
        """Examples by group, float64 [G], as drawn while the split is once gone through.

        Of extra examples those count whose label and attribute are known.
        """
        found = self.train.counts().astype(np.float64)
        sizes = self.sizes(batch_size)
        passes = len(self.train) / (batch_size - sum(sizes.values()))
        group = self.split.columns["group"]
        for name, size in sizes.items():
            for pool, count, _ in self._kinds(name, size):
                weights = self.known[False][pool] / len(pool) * count * passes
                found += np.bincount(group[pool], weights, minlength=len(found))
        return found

    def with_labelled(self, batch: Batch, hide_attributes: bool) -> Batch:
        """To what sees attributes, one whose attribute no one knows is as one without a label."""
        known = self.known[hide_attributes]
        if known.all():
            return batch
        return batch | {"labelled": known[self.rows_of(batch["id"])]}

    def augment(self, batch: Batch, seed: int, step: int) -> Batch:
        """The batch as training sees it: changed by chance, encoded anew, then as views draw.

        A batch may be cut to its longest row: no change makes a text longer.
        """
        return super().augment(self._changed(batch, seed, step), seed, step)

    def _changed(self, batch: Batch, seed: int, step: int) -> Batch:
        ids = batch["id"]
        if any(one.mixes for one in self.changes.values()):
            weight = np.ones(len(ids), np.float32)
            batch = batch | {"partner_label": batch["label"], "label_weight": weight}
        chosen = {
            name: draws(seed, step, ids, 1, _stream(name))[:, 0] < one.rate
            for name, one in self.changes.items()
        }
        some = np.flatnonzero(np.any([*chosen.values(), np.zeros(len(ids), bool)], axis=0))
        if not len(some):
            return batch
        columns = self._raw(ids[some])
        columns |= {k: batch[k][some] for k in ("partner_label", "label_weight") if k in batch}
        mixed = np.zeros(len(some), bool)
        for name, one in self.changes.items():
            picked = np.flatnonzero(chosen[name][some] & ~(mixed & one.mixes))
            if not len(picked):
                continue
            mixed[picked] |= one.mixes
            draw = functools.partial(_numbers, seed, step, ids[some[picked]], _stream(name))
            given = {k: v[picked] for k, v in columns.items()}
            for key, new in one.change(given, self.train, draw).items():
                columns[key][picked] = new
        attributes = len(self.train.info.attribute_names)
        columns["group"] = columns["label"] * attributes + columns["attribute"]
        views = {}
        for name, old in batch["views"].items():
            new = self.encoders[name].encode(columns)
            views[name] = copy.copy(old)
            views[name].update({k: _put(v, some, new[k]) for k, v in old.items()})
        told = ("attribute", "group", "partner_label", "label_weight")
        return (
            batch
            | {"views": views}
            | {k: _put(batch[k], some, columns[k]) for k in told if k in batch}
        )

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Where the examples of these ids are."""
        return self._order[np.searchsorted(self.split.columns["id"], ids, sorter=self._order)]

    def _raw(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """All columns of the examples, in arrays that may be written to."""
        rows = self.rows_of(ids)
        return {k: np.array(v[rows]) for k, v in self.split.columns.items()}


def _stream(name: str) -> int:
    """From 1 to 2^31, so that none meets what samplers and views draw, whose stream is 0."""
    return zlib.crc32(name.encode()) % 2**31 + 1


def _numbers(seed: int, step: int, ids: np.ndarray, stream: int, count: int) -> np.ndarray:
    """As `draws`; the first number of each row has said whether it is changed."""
    return draws(seed, step, ids, count + 1, stream)[:, 1:]


def _put(old: np.ndarray, rows: np.ndarray, new: np.ndarray) -> np.ndarray:
    made = old.copy()
    made[rows] = new[(slice(None), *(slice(n) for n in old.shape[1:]))]
    return made


def _part(split: Split, rows: np.ndarray) -> Split:
    if len(rows) == len(split):
        return split
    return Split({k: v[rows] for k, v in split.columns.items()}, split.info)


def _joined(parts: list[Split]) -> Split:
    """Columns that all parts have, end to end, and whether label and attribute are known."""
    train = parts[0]
    ones = dict.fromkeys(("labelled", "grouped"), np.ones(len(train), np.float32))
    parts = [Split({**train.columns, **ones}, train.info), *parts[1:]]
    columns = {}
    for name in parts[0].columns:
        if all(name in part.columns for part in parts):
            arrays = [part.columns[name] for part in parts]
            lazy = any(isinstance(array, Column) for array in arrays)
            columns[name] = Joined(arrays) if lazy else np.concatenate(arrays)
    return Split(columns, groups_of(train.info))
