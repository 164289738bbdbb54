"""What sets of premise and hypothesis share: how their files are read, labels, a shortcut.

The attribute is one that the texts show by themselves (`shortcuts.py`): "overlap" or "negation"; or
one that the set itself tells of.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from fairkd_jax.data.archives import AnyPath, Missing, Source
from fairkd_jax.data.counterparts import subject_object
from fairkd_jax.data.dataset import Flipped, Info, Split, make_split
from fairkd_jax.data.prepared import Example, Records
from fairkd_jax.data.rows import read_rows
from fairkd_jax.data.shortcuts import SHORTCUTS, attribute_of
from fairkd_jax.data.subpopulations import by_value
from fairkd_jax.registry import UnknownName

LABELS = ("entailment", "neutral", "contradiction")
WRITTEN = {  # a label as files have it -> its name; -1: the annotators did not agree
    **{str(i): name for i, name in enumerate(LABELS)},
    **{name[0]: name for name in LABELS},
    "-": -1,
    "-1": -1,
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """One form in which pairs are distributed: files, and the columns that hold what is wanted."""

    files: Sequence[str]  # the first that is there; all files of a pattern with "*", one of a name
    premise: str = "premise"
    hypothesis: str = "hypothesis"
    label: str = "label"
    key: str = ""  # names a pair; "": its line does
    more: Mapping[str, str] = dataclasses.field(default_factory=dict)  # feature -> column
    quoted: bool = False
    encodings: Sequence[str] = ("UTF-8",)


OF_STANFORD = {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}
# as SNLI, MultiNLI and HANS name their columns


def features(tfds: Any, labels: Sequence[str] = LABELS, **more: Any) -> dict[str, Any]:
    """What is kept of a pair; `more`: what a set keeps beside it."""
    texts = {name: tfds.Text() for name in ("pair_id", "premise", "hypothesis")}
    return texts | {"label": tfds.ClassLabel(names=labels)} | more


def read(
    source: Source, layouts: Sequence[Layout], written: Mapping[str, Any] = WRITTEN
) -> Iterator[tuple[str, Example]]:
    """(where it stands, example) of every pair of the first layout that is there.

    `written`: the names of labels that files write otherwise. Raises Missing, naming all files
    that were looked for, where there is none.
    """
    for layout in layouts:
        if found := _files(source, layout):
            for path in found:
                yield from _pairs(path, layout, written)
            return
    source.file(*(name for layout in layouts for name in layout.files))


def _pairs(
    path: AnyPath, layout: Layout, written: Mapping[str, Any]
) -> Iterator[tuple[str, Example]]:
    texts = (layout.premise, layout.hypothesis)
    names = [name for name in (layout.label, layout.key, *layout.more.values()) if name]
    rows = read_rows(path, texts, names, quoted=layout.quoted, encodings=layout.encodings)
    for line, row in rows:
        label = row[layout.label]
        pair = {
            "pair_id": row[layout.key] if layout.key else f"{path.name}, {line}",
            "premise": row[layout.premise],
            "hypothesis": row[layout.hypothesis],
            "label": written.get(label, label),
        }
        yield f"{path}, line {line}", pair | {k: row[v] for k, v in layout.more.items()}


def _files(source: Source, layout: Layout) -> list[AnyPath]:
    for name in layout.files:
        if "*" in name:
            found = [*source.files(name).values()]
        else:
            found = []
            with contextlib.suppress(Missing):
                found = [source.file(name)]
        if found:
            return found
    return []


def info(
    attribute: str,
    licence: str,
    source: str,
    labels: tuple[str, ...] = LABELS,
    own: Mapping[str, Mapping[str, tuple[str, ...]]] = {},
    **more: Any,
) -> Info:
    """Raises UnknownName for an attribute that is neither of `SHORTCUTS` nor of the set.

    `own`: attributes of the set, the labels that each of their values suggests.
    """
    known = {name: shortcut.suggests for name, shortcut in SHORTCUTS.items()} | dict(own)
    if attribute not in known:
        raise UnknownName(attribute, "attribute", known)
    suggests = known[attribute]
    aligned = tuple(tuple(label in suggests[v] for v in suggests) for label in labels)
    return Info(labels, tuple(suggests), aligned, licence, source, **more)


@dataclasses.dataclass(frozen=True)
class PreparedPairs:
    """What prepared sets of pairs share: the attribute, and how a split is loaded."""

    attribute: str = "overlap"

    scored: ClassVar[tuple[str, ...]] = ()  # features, each value of which is scored by itself

    def keep(self) -> Mapping[str, Sequence[str]]:
        """Feature -> values of the pairs that are wanted."""
        return {}

    def load(self, split: str) -> Split:
        records = self.records(split)
        return split_of(records, self.info, self.attribute, self.scored, self.keep())

    def flips(self) -> Mapping[str, Callable[[Split], Flipped]]:
        """What it can change of an example; see the contract."""
        return {"subject_object": subject_object}

    def attribute_of(self, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The attribute of pairs, int32 [n]; None where they do not show it by themselves."""
        return attribute_of(
            SHORTCUTS.get(self.attribute), columns["premise"], columns["hypothesis"]
        )


def split_of(
    records: Records,
    info: Info,
    attribute: str,
    subpopulations: Sequence[str] = (),
    keep: Mapping[str, Sequence[str]] = {},
) -> Split:
    """A split of "premise", "hypothesis" and "label"; rows of a label without a name are left out.

    TFDS has -1 where the annotators of SNLI did not agree; the literature leaves these out.
    `subpopulations` are features, the values of each of which are scored by themselves; `keep`:
    feature -> values of the rows that are wanted.
    """
    premise = "premise" if records.has("premise") else "context"  # as TFDS has it of ANLI
    scored = [name for name in subpopulations if records.has(name)]
    own = {name: None for name in (attribute, *scored, *keep) if records.has(name)}
    read = records.columns(premise, "hypothesis", "label", *own)
    told = {name: _names(records, name, read[name]) for name in own}
    left_out, rows = {"no label": read["label"] < 0}, np.full(len(records), True)
    for name in keep.keys() & told.keys():
        left_out[name] = ~np.isin(told[name], keep[name])
    for reason, leaves in left_out.items():
        left_out[reason] = int(np.count_nonzero(leaves & rows))
        rows &= ~leaves
    rows = np.flatnonzero(rows)
    texts = {
        "premise": [read[premise][i] for i in rows],
        "hypothesis": [read["hypothesis"][i] for i in rows],
    }
    values = attribute_of(SHORTCUTS.get(attribute), *texts.values())
    if values is None:
        places = {name: i for i, name in enumerate(info.attribute_names)}
        values = np.array([places[name] for name in told[attribute][rows]])
    member = {}
    if named := {k: told[k][rows].tolist() for k in scored if any(told[k][rows])}:
        names, member["member"] = by_value(named, f"{records.folder}")
        info = dataclasses.replace(info, subpopulations=names)
    for name in records.names("label"):
        if name not in info.label_names:
            raise UnknownName(name, f"label of {records.folder}:", info.label_names)
    number = np.array([info.label_names.index(name) for name in records.names("label")])
    split = make_split(info, number[read["label"][rows]], values, id=rows, **member, **texts)
    return dataclasses.replace(split, left_out={k: n for k, n in left_out.items() if n})


def _names(records: Records, feature: str, values: Any) -> np.ndarray:
    """The values of a feature as texts, object [N]; "" where it has none."""
    if isinstance(values, list):
        return np.array(values, object)
    return np.array([*records.names(feature), ""], object)[values]  # the last where it is -1
