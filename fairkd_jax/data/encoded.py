"""A split as a view encodes it, row by row: tokens on the disk, pixels as they are asked for."""

import abc
import copy
import hashlib
import threading
from collections.abc import Iterator, Mapping

import numpy as np

from fairkd_jax.data import kept
from fairkd_jax.data.dataset import Encoder, Ragged, Split

KEPT_BYTES = 2**29  # rows of one shape that would be larger are encoded whenever they are asked for
ROWS_AT_ONCE = 8192  # while encoding: bounds the memory beside the result


class Encoded(abc.ABC):
    """The rows of a split, encoded."""

    lengths: np.ndarray | None = None  # int32 [N], where rows differ in length

    @abc.abstractmethod
    def rows(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Arrays [n, ...] of the given row numbers, ragged ones padded to `length`."""

    @abc.abstractmethod
    def beyond(self, name: str, limit: int) -> tuple[int, int, int] | None:
        """(row, number there, largest of all): the first number of an array not below a limit."""

    def part(self, rows: np.ndarray) -> "Encoded":
        """Some of the rows, in this order."""
        return Few(self, rows)


def encoded(split: Split, encoder: Encoder) -> Encoded:
    """The rows of a split as an encoder gives them; ragged ones are all encoded here."""
    ragged = type(encoder).ragged is not Encoder.ragged
    return _tokens(split, encoder) if ragged else Whole(split, encoder)


class Some(Mapping):
    """Some rows of a split, of the columns that are looked at."""

    def __init__(self, split: Split, rows: slice | np.ndarray):
        self._columns, self._rows = split.columns, rows

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name][self._rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


class Whole(Encoded):
    """Rows of one shape: each is kept from when it is first asked for, where all would fit."""

    def __init__(self, split: Split, encoder: Encoder):
        self._split, self._encoder = split, encoder
        self._kept: dict[str, np.ndarray] | None = None  # {}: too large
        self._making = threading.Lock()  # of `_kept`: batches are read by several threads
        self._there = np.zeros(len(split), bool)

    def rows(self, rows: np.ndarray, length: int = 0) -> dict[str, np.ndarray]:
        with self._making:
            if self._kept is None:
                one = self._encoder.encode(Some(self._split, slice(0, 1)))
                fits = sum(v.nbytes for v in one.values()) * len(self._split) <= KEPT_BYTES
                # memory is taken by the rows that are written, not by those that are not
                shapes = {k: (len(self._split), *v.shape[1:]) for k, v in one.items() if fits}
                self._kept = {k: np.empty(shape, one[k].dtype) for k, shape in shapes.items()}
        if not self._kept:
            return self._encoder.encode(Some(self._split, rows))
        missing = np.unique(rows[~self._there[rows]])
        if len(missing):
            for name, array in self._encoder.encode(Some(self._split, missing)).items():
                self._kept[name][missing] = array
            self._there[missing] = True  # last: other threads read too
        return {name: array[rows] for name, array in self._kept.items()}

    def beyond(self, name: str, limit: int) -> tuple[int, int, int] | None:
        """What is too large to be kept is not looked at."""
        one = self.rows(np.arange(min(1, len(self._split))))
        if name not in one or not self._kept:
            return None
        for i in range(0, len(self._split), ROWS_AT_ONCE):
            self.rows(np.arange(i, min(i + ROWS_AT_ONCE, len(self._split))))
        where = np.argwhere(self._kept[name] >= limit)
        if not len(where):
            return None
        number = int(self._kept[name][tuple(where[0])])
        return int(where[0][0]), number, int(self._kept[name].max())


class Few(Encoded):
    """Some rows of others."""

    def __init__(self, whole: Encoded, chosen: np.ndarray):
        self._whole, self._chosen = whole, chosen
        self.lengths = None if whole.lengths is None else whole.lengths[chosen]

    def rows(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        return self._whole.rows(self._chosen[rows], length)

    def beyond(self, name: str, limit: int) -> tuple[int, int, int] | None:
        """Of all: what holds for them holds for some."""
        return self._whole.beyond(name, limit)


class Ends(Encoded):
    """Rows of one encoder end to end."""

    def __init__(self, first: Encoded, second: Encoded, size: int):
        self._first, self._second, self._size = first, second, size  # rows of the first
        if first.lengths is not None:
            self.lengths = np.concatenate([first.lengths, second.lengths])

    def rows(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        later = rows >= self._size
        if not later.any():
            return self._first.rows(rows, length)
        parts = [
            part.rows(rows[mine] - start, length)
            for part, mine, start in ((self._first, ~later, 0), (self._second, later, self._size))
        ]
        order = np.argsort(np.argsort(later, kind="stable"))
        return {k: np.concatenate([part[k] for part in parts])[order] for k in parts[0]}

    def beyond(self, name: str, limit: int) -> tuple[int, int, int] | None:
        if found := self._first.beyond(name, limit):
            return found
        row, *told = self._second.beyond(name, limit) or (None,)
        return None if row is None else (self._size + row, *told)


class Tokens(Encoded):
    """Rows of different lengths, one behind the other, where they can be mapped on the disk."""

    def __init__(self, ragged: Ragged, encoder: Encoder, largest: Mapping[str, int]):
        self.lengths, self.flat = ragged.lengths, ragged.flat
        self.largest = largest  # the largest number of each array
        self.starts = np.cumsum(self.lengths, dtype=np.int64) - self.lengths
        self._encoder = encoder

    def part(self, rows: np.ndarray) -> "Tokens":
        """Some of the rows, ascending, of the same numbers."""
        found = copy.copy(self)
        found.lengths, found.starts = self.lengths[rows], self.starts[rows]
        return found

    def rows(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        lengths, starts = self.lengths[rows], self.starts[rows]
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        place = np.repeat(starts, lengths) + within
        flat = {name: array[place] for name, array in self.flat.items()}
        return self._encoder.pad(Ragged(lengths, flat), length)

    def beyond(self, name: str, limit: int) -> tuple[int, int, int] | None:
        if self.largest.get(name, -1) < limit:
            return None
        place = int(np.argmax(self.flat[name] >= limit))
        row = int(np.searchsorted(self.starts, place, side="right")) - 1
        return row, int(self.flat[name][place]), self.largest[name]


def _tokens(split: Split, encoder: Encoder) -> Tokens:
    """Kept on the disk where split and encoder have keys, else in memory."""
    if not (split.key and encoder.key):
        found = [*_blocks(split, encoder)]
        lengths = np.concatenate([block.lengths for block in found])
        flat = {k: np.concatenate([block.flat[k] for block in found]) for k in found[0].flat}
        return Tokens(Ragged(lengths, flat), encoder, {k: _max(v) for k, v in flat.items()})

    def make(writer: kept.Writer) -> dict[str, dict[str, int]]:
        largest: dict[str, int] = {}
        for block in _blocks(split, encoder):
            writer.add("lengths", block.lengths)
            for name, array in block.flat.items():
                writer.add(f"flat.{name}", array)
                largest[name] = max(largest.get(name, 0), _max(array))
        return {"largest": largest}

    rows = hashlib.sha256(split.columns["id"].tobytes()).hexdigest()
    entry = kept.keep("tokens", [split.key, rows, encoder.key], make)
    arrays = dict(entry.arrays)
    lengths = np.array(arrays.pop("lengths"))
    flat = {name.removeprefix("flat."): array for name, array in arrays.items()}
    return Tokens(Ragged(lengths, flat), encoder, entry.facts["largest"])


def _max(array: np.ndarray) -> int:
    return int(array.max(initial=0))


def _blocks(split: Split, encoder: Encoder) -> Iterator[Ragged]:
    for i in range(0, max(len(split), 1), ROWS_AT_ONCE):
        block = encoder.ragged(Some(split, slice(i, i + ROWS_AT_ONCE)))
        assert block is not None
        yield block
