"""The contract of an augmentation: extra examples to draw from, or changes of those that are drawn.

Extra examples are made once, from the training split and the options of the augmentation, with or
without a label; a teacher's table holds its answers to them. A change is drawn anew at every step,
so a teacher then runs live. What changes the pixels of one image alone may also be an option of the
image view: its `crop` and `flip`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from fairkd_jax.data.dataset import Column, DataSet, Info, Split, make_split
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Path

ROLES = ("teacher", "baseline", "distilled")
Columns = Mapping[str, np.ndarray]  # of the examples to change
Numbers = Callable[[int], np.ndarray]  # count -> float64 [n, count] in [0, 1), a row an example


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The contract of a file in `data/augment/`: a frozen dataclass of options.

    It overrides `examples`; or `change`, and then says `changes_inputs`.
    """

    needs: ClassVar[tuple[str, ...]] = ()  # raw columns of the data set that it reads
    changes_inputs: ClassVar[bool] = False  # at every step anew: a table of answers would be stale
    mixes: ClassVar[bool] = False  # two examples into one, with the labels of both
    partners: ClassVar[bool] = False  # does a change take from another example?
    places: ClassVar[tuple[str, ...]] = ()  # options that say where files lie

    rate: float = 0.25  # share of each batch that is extra; of a change: of examples changed
    roles: tuple[str, ...] = ROLES  # in whose training it takes part; a rung's: as the distilled
    conflicting: float | None = None  # share of what is drawn, extra examples or partners, on which
    # the shortcut gives the wrong answer; None: as they come

    def __init_subclass__(cls):
        hook = "change" if cls.changes_inputs else "examples"
        if getattr(cls, hook) is getattr(Augmentation, hook):
            told = f"changes_inputs = {cls.changes_inputs}"
            raise TypeError(f"{cls.__name__} says {told}, so it must define `{hook}`")

    def __post_init__(self):
        for role in self.roles:
            if role not in ROLES:
                raise UnknownName(role, f"role in {self._name()}.roles:", ROLES)
        highest = "up to 1" if self.changes_inputs else "below 1"
        if not (0 < self.rate < 1 or (self.changes_inputs and self.rate == 1)):
            raise ValueError(f"{self._name()}: rate = {self.rate}, expected above 0 and {highest}")
        share = self.conflicting
        if share is None:
            return
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ValueError(f"{self._name()}: conflicting = {share!r}, expected 0 to 1, or None")
        if self.changes_inputs and not self.partners:
            raise ValueError(
                f"{self._name()}: conflicting = {share} means nothing: each example is changed by "
                "itself, and no other is drawn"
            )

    def _name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    @property
    def sees_attributes(self) -> bool:
        """Does what it gives depend on attributes of training examples?"""
        return self.conflicting is not None

    def reads(self) -> Mapping[str, Path]:
        """The files that it reads, by a name that does not say where they lie."""
        return {}

    def examples(self, train: Split, dataset: DataSet) -> Split:
        """The extra examples, the same at every call; `extra` makes them.

        `train` is the split that is drawn from, of the data set. Their ids are given later. Raises
        ValueError where there can be none.
        """
        raise NotImplementedError

    def change(self, columns: Columns, train: Split, draw: Numbers) -> Columns:
        """The columns that change, of the same rows; a pure function, row by row.

        It may return raw columns, "attribute", and, where it mixes, "partner_label" int [n] with
        "label_weight" [n], the share of the example's own label, from 1/2 on. Texts never grow.
        """
        raise NotImplementedError

    def partners_of(self, train: Split, draw: Numbers) -> np.ndarray:
        """A row of the training split for each example to be changed, int64 [n]."""
        kind, place = draw(2).T
        pools = [np.arange(len(train))]
        which = np.zeros(len(kind), int)
        if self.conflicting is not None:
            wrong = conflicts(train)
            pools = [np.flatnonzero(~wrong), np.flatnonzero(wrong)]
            require_both(pools, self.conflicting, self._name())
            which = (kind < self.conflicting).astype(int)
        sizes = np.array([len(pool) for pool in pools])
        starts = np.cumsum(sizes) - sizes
        return np.concatenate(pools)[starts[which] + (place * sizes[which]).astype(np.int64)]


def conflicts(split: Split) -> np.ndarray:
    """On which examples the shortcut gives the wrong answer, bool [N]."""
    aligned = np.asarray(split.info.aligned, bool)
    return ~aligned[split.columns["label"], split.columns["attribute"]]


def require_both(pools: Sequence[np.ndarray], conflicting: float, place: str) -> None:
    """Raises ValueError where a share is asked of examples of a kind of which there is none."""
    for pool, share, kind in zip(pools, (1 - conflicting, conflicting), ("aligned", "conflicting")):
        if share > 0 and not len(pool):
            raise ValueError(f"{place}: conflicting = {conflicting}, but no example is {kind}")


def extra(
    train: Split,
    *,
    label: np.ndarray,
    attribute: np.ndarray | None,
    labelled: np.ndarray | bool = True,
    **raw: np.ndarray | Column | Sequence[str],
) -> Split:
    """Extra examples for a training split; their ids count from 0.

    Where `labelled` is False, the label says nothing. `attribute` None: no one knows it; to methods
    that see attributes such examples are as unlabelled.
    """
    known = np.broadcast_to(np.asarray(labelled, np.float32), len(label)).copy()
    grouped = np.full(len(label), attribute is not None, np.float32)
    attribute = np.zeros(len(label), np.int32) if attribute is None else attribute
    return make_split(
        groups_of(train.info), label, attribute, **raw, labelled=known, grouped=grouped
    )


def groups_of(info: Info) -> Info:
    """What extra examples share with the split: labels, attributes and what is aligned."""
    return Info(info.label_names, info.attribute_names, info.aligned, info.licence, info.source)


def copies(train: Split, columns: Mapping[str, np.ndarray | Column]) -> Split:
    """Extra examples whose label and attribute are known, as those of the training split are."""
    known = np.ones(len(columns["label"]), np.float32)
    return Split({**columns, "labelled": known, "grouped": known}, train.info)


def pairs_of(pairs: Sequence[tuple[str, str]]) -> dict[str, np.ndarray]:
    """Raw columns of (premise, hypothesis) pairs."""
    columns = zip(("premise", "hypothesis"), zip(*pairs))
    return {name: np.array(texts, object) for name, texts in columns}


def evenly(count: int, size: int) -> np.ndarray:
    """At most `count` of `size` row numbers, evenly spaced; all where `count` is 0."""
    return np.arange(size) if not 0 < count < size else np.arange(count) * size // count


def label_number(train: Split, name: str) -> int | None:
    """The number of a label; None for a set that has none of this name."""
    names = train.info.label_names
    return names.index(name) if name in names else None


def texts_of(columns: Mapping[str, Any], name: str) -> list[str]:
    """A column of texts as a list."""
    return columns[name][:].tolist()
