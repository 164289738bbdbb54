"""The two contracts of data: a set gives named splits of raw columns, a view turns raw into arrays.

A split is a table in memory: `columns` hold label, attribute, id and the raw inputs ("image" uint8
[N, Y, X, K], or "premise" and "hypothesis" texts [N]). Labels are matched by name, never number.
"""

import abc
import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Path


@dataclasses.dataclass(frozen=True)
class Info:
    """What a set says of itself."""

    label_names: tuple[str, ...]
    attribute_names: tuple[str, ...]
    aligned: tuple[tuple[bool, ...], ...]  # [C][A]: does the shortcut give the right answer there?
    licence: str
    source: str
    collapses: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    # label of this set -> labels of a net that count as it: {"non-entailment": ("neutral", ...)}
    expected_counts: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    # split -> examples by group, where the distribution is known: checked on loading
    subpopulations: tuple[str, ...] = ()
    # parts of a split that are scored beside its groups: an example may be in several, or in none

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names in the order of the group number, label * A + attribute."""
        return tuple(f"{y}, {a}" for y in self.label_names for a in self.attribute_names)


class Column(abc.ABC):
    """A raw column that is read when rows of it are asked for: images in files, texts on a disk.

    Beside `len(column)` and `column[rows]` it has the `dtype` and `shape` of the array that it
    stands for.
    """

    dtype: np.dtype
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    @abc.abstractmethod
    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """The rows of a slice, or of an array of row numbers, in its order."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One split: columns of equal length N, with label, attribute, group and id.

    Those four are arrays; a raw column may be a `Column`. Where `info` names subpopulations, a
    fifth is "member", bool [N, E]: which of them each example is in.
    """

    columns: Mapping[str, np.ndarray | Column]
    info: Info
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    # reason -> rows of the source that are not in the split
    key: str = ""  # names what all columns hold; "": nothing made of them outlives the process.
    # Whoever changes raw columns, or takes other rows, gives another key, or none

    def __len__(self) -> int:
        return len(self.columns["label"])

    def counts(self) -> np.ndarray:
        """Examples by group, int64 [G]."""
        return np.bincount(self.columns["group"], minlength=len(self.info.group_names))

    def member_counts(self) -> np.ndarray:
        """Examples by subpopulation, int64 [E]."""
        if not self.info.subpopulations:
            return np.zeros(0, np.int64)
        return self.columns["member"].sum(axis=0, dtype=np.int64)


Flipped = tuple[np.ndarray, Split]
"""Rows of a split, int [n], and as many examples, each made of one of them."""


def make_split(
    info: Info,
    label: np.ndarray,
    attribute: np.ndarray,
    **raw: np.ndarray | Column | Sequence[str],
) -> Split:
    """A checked Split; `group` and, where it is not given, `id` are added here.

    Texts are best given as a list; they are kept as objects, since in an array of fixed width each
    of them would take the room of the longest. `member`, of zeros and ones or truth values, is
    given where `info` names subpopulations, and only there.

    Raises ValueError for columns of different lengths, labels or attributes out of range, repeated
    ids, or a `member` that is not [N, E] of truth values.
    """
    label, attribute = np.asarray(label, np.int32), np.asarray(attribute, np.int32)
    identity = np.asarray(raw.pop("id", np.arange(len(label))), np.int32)
    group = label * len(info.attribute_names) + attribute
    columns = {"label": label, "attribute": attribute, "group": group, "id": identity}
    if "member" in raw or info.subpopulations:
        columns["member"] = _members(info, raw.pop("member", None), len(label))
    columns |= {k: _texts_as_objects(values) for k, values in raw.items()}
    lengths = {k: len(v) for k, v in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"columns of different lengths: {lengths}")
    for name, values, names in (
        ("label", label, info.label_names),
        ("attribute", attribute, info.attribute_names),
    ):
        if len(values) and not (values.min() >= 0 and values.max() < len(names)):
            raise ValueError(
                f"{name} {values.min()}..{values.max()} outside 0..{len(names) - 1}: {names}"
            )
    if len(np.unique(identity)) != len(identity):
        raise ValueError("example ids repeat within a split")
    return Split(columns, info)


def _members(info: Info, given: Any, rows: int) -> np.ndarray:
    """The column "member" as truth values; ValueError for one that is not what `info` says."""
    names = info.subpopulations
    if len(set(names)) < len(names) or not all(names):
        raise ValueError(f"subpopulations {names}: each needs a name of its own")
    member = np.asarray(np.zeros(0) if given is None else given)
    if member.shape != (rows, len(names)) or not names:
        raise ValueError(
            f"member {'is missing' if given is None else member.shape}, expected a truth value for "
            f"each of {rows} examples and of {len(names)} subpopulations: {', '.join(names)}"
        )
    if member.dtype.kind not in "bui" or (
        member.size and not 0 <= member.min() <= member.max() <= 1
    ):
        raise ValueError(f"member holds other values than truth values, or 0 and 1: {member.dtype}")
    return member.astype(bool)


def _texts_as_objects(values: np.ndarray | Column | Sequence[str]) -> np.ndarray | Column:
    given = isinstance(values, np.ndarray | Column)
    return values if given and values.dtype.kind != "U" else np.array(values, object)


@dataclasses.dataclass(frozen=True)
class DataSet(abc.ABC):
    """The contract of a file in `data/sets/`: a frozen dataclass of options."""

    splits: ClassVar[tuple[str, ...]]
    places: ClassVar[tuple[str, ...]] = ()  # options that say where files lie
    original: ClassVar[Any] = None  # the `prepared.Original` that `fairkd-data` prepares it from

    @property
    @abc.abstractmethod
    def info(self) -> Info:
        """Names of labels and attributes, where the shortcut holds, licence and source."""

    @abc.abstractmethod
    def load(self, split: str) -> Split:
        """One split, the same at every call. Raises UnknownName for a split that is not there."""

    def reads(self, split: str) -> Mapping[str, Path]:
        """The files that `load(split)` reads, by a name that does not say where they lie.

        Their content is part of the identity of every stage that uses the split.
        """
        return {}

    def attribute_of(self, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The attribute of raw columns by the set's own rule, int32 [n]; None where it has none.

        So that examples made from others have the attribute that the set would give them.
        """
        return None

    def with_attribute(self, split: Split, attribute: np.ndarray) -> Split:
        """The same examples, ids and labels with other values of the attribute, int32 [N].

        For sets that plant their attribute; what else an example shows stays as it is, so that a
        pair differs in the attribute alone. Raises ValueError for a set that cannot.
        """
        raise ValueError(
            f"{type(self).__name__} does not plant its attribute, so none can be put in its place"
        )

    def flips(self) -> Mapping[str, Callable[[Split], Flipped]]:
        """What it can change of an example and leave the rest as it is, by name.

        Each takes a split and gives the rows of which it makes another example, and these, as a
        split whose labels are still those of the rows. A set that plants its attribute has
        "attribute", the next of its values; `data/counterparts.py` has ways that sets share.
        """
        own = type(self).with_attribute is not DataSet.with_attribute
        return {"attribute": self._with_next_attribute} if own else {}

    def _with_next_attribute(self, split: Split) -> Flipped:
        following = (split.columns["attribute"] + 1) % len(split.info.attribute_names)
        return np.arange(len(split)), self.with_attribute(split, following)

    def may_train(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which raw examples the set would never put into another split than "train", bool [n].

        Extra examples are held to it: what may be scored is not trained on.
        """
        return np.ones(len(next(iter(columns.values()))), bool)

    def require(self, split: str) -> None:
        """Raises UnknownName unless the set has the split."""
        if split not in self.splits:
            raise UnknownName(split, f"split of {type(self).__name__}:", self.splits)


@dataclasses.dataclass(frozen=True)
class View(abc.ABC):
    """The contract of a file in `data/views/`: options; `fit` gives an encoder."""

    places: ClassVar[tuple[str, ...]] = ()  # options that say where files lie

    @property
    def changes_inputs(self) -> bool:
        """Does its encoder draw in training? A table of the teacher's answers would be stale."""
        return False

    @abc.abstractmethod
    def fit(self, train: Split) -> "Encoder":
        """What this view learns from the training split (a vocabulary; nothing for images)."""

    def reads(self) -> Mapping[str, Path]:
        """The files that `fit` reads beside the training split, by name."""
        return {}

    def options_for(self, folder: Path, encoder: "Encoder") -> dict[str, Any] | None:
        """Options that this view lacks to give what published weights in a folder read.

        {}: `encoder`, this view fitted, gives them that. None: the folder does not say. Raises
        ValueError for inputs that no options of the view give.
        """
        return None


class Ragged(NamedTuple):
    """Rows of different lengths, one behind the other."""

    lengths: np.ndarray  # int32 [n], from 1 on
    flat: Mapping[str, np.ndarray]  # whole numbers [sum of lengths], by name


class Encoder(abc.ABC):
    """A fitted view. `facts` tells nets what only the data know, with an "identity" to compare."""

    facts: dict[str, Any]
    key: str = ""  # names all that decides what `ragged` gives; "": it is not kept on the disk
    # what stands behind a ragged row, by array; 0 if not said
    fill: Mapping[str, int] = types.MappingProxyType({})
    # of arrays of bytes: (name, scale, shift), by channel; the device makes bytes * scale + shift
    scaling: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...] = ()

    @abc.abstractmethod
    def encode(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays [n, ...] for the rows given; a pure function, row by row."""

    def ragged(self, columns: Mapping[str, np.ndarray]) -> Ragged | None:
        """The rows without padding, none longer than `facts["length"]`.

        An encoder that has no such method of its own gives rows of one shape. One that has pads
        them by `pad` to `facts["length"]` in `encode`, and batches may be padded to less.
        """
        return None

    def pad(self, rows: Ragged, length: int) -> dict[str, np.ndarray]:
        """The arrays, int32 [n, length], and "mask": 1 on what is there, 0 behind it."""
        there = np.arange(length) < rows.lengths[:, None]
        padded = {"mask": there.astype(np.int32)}
        for name, flat in rows.flat.items():
            padded[name] = np.full(there.shape, self.fill.get(name, 0), np.int32)
            padded[name][there] = flat
        return padded

    def augment(
        self, arrays: dict[str, np.ndarray], ids: np.ndarray, seed: int, step: int
    ) -> dict[str, np.ndarray]:
        """What `encode` gave, of the same shapes, changed at random; only training calls it.

        A pure function, row by row, of the arrays and `draws(seed, step, ids, ...)`: so a run does
        not depend on how many processes there are, nor on where it was stopped.
        """
        return arrays

    def save(self, folder: Path) -> None:
        """Writes what others need to encode inputs as this does, beside exported weights.

        Nothing, unless the view has published files of its own.
        """
        return None


def draws(seed: int, step: int, ids: np.ndarray, count: int, stream: int = 0) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 [n, count]: a row is of (seed, step, id, stream) alone.

    What draws beside others for the same examples has a stream of its own, below 2^63.
    """
    key = np.array([seed, step], np.uint64)
    # Samplers draw by the same keys, and count in the first of the four words alone.
    rows = [np.random.Philox(key=key, counter=[0, 1 + stream, i, 0]) for i in ids.tolist()]
    return np.stack([np.random.Generator(row).random(count) for row in rows])


def column(columns: Mapping[str, np.ndarray | Column], name: str) -> np.ndarray | Column:
    """A raw column; UnknownName if the set has none of that name (an image view of text)."""
    if name not in columns:
        raise UnknownName(name, "column of the data set", columns)
    return columns[name]
