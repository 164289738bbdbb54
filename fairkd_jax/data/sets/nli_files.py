"""Premise and hypothesis pairs from the user's own files: MNLI, SNLI, HANS and sets like them.

Training and validation on MNLI, and HANS as a set of its own to evaluate on:

    {"name": "nli_files", "folder": F, "train": "mnli/train.tsv.gz", "val": "mnli/dev.tsv.gz"}
    {"name": "nli_files", "folder": F, "hans": "hans/eval.tsv.gz", "attribute": "heuristic",
     "label_names": ("entailment", "non-entailment"),
     "attribute_names": ("lexical_overlap", "subsequence", "constituent"),
     "suggests": {h: ("entailment",) for h in the three heuristics}}
"""

import csv
import dataclasses
import gzip
import json
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from fairkd_jax.data.dataset import DataSet, Info, Split, make_split
from fairkd_jax.registry import UnknownName

Row = Mapping[str, str]


def overlaps(premise: str, hypothesis: str) -> bool:
    """Does every [a-z0-9]+ token of the hypothesis occur in the premise (arXiv 1902.01007)?"""
    return set(_tokens(hypothesis)) <= set(_tokens(premise))


def negates(premise: str, hypothesis: str) -> bool:
    """Is a token of the hypothesis nobody, no, never or nothing (arXiv 1911.08731, section 3.1)?"""
    return not {"nobody", "no", "never", "nothing"}.isdisjoint(_tokens(hypothesis))


def _tokens(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


class Shortcut(NamedTuple):
    """An attribute computed from the texts, and the labels that each of its two values suggests."""

    holds: Callable[[str, str], bool]
    suggests: Mapping[str, tuple[str, ...]]  # value where it holds first


SHORTCUTS = {
    "overlap": Shortcut(
        overlaps,
        {
            "overlap": ("entailment",),
            "no_overlap": ("neutral", "contradiction", "non-entailment"),
        },
    ),
    "negation": Shortcut(
        negates,
        {
            "negation": ("contradiction", "non-entailment"),
            "no_negation": ("entailment", "neutral"),
        },
    ),
}


@dataclasses.dataclass(frozen=True)
class NliFiles(DataSet):
    """Splits from .tsv (no quoting), .csv or .jsonl files, each of them also as .gz.

    Raises ValueError or FileNotFoundError for a missing folder or file when it is made, and for
    a broken row, an unknown label or an unknown attribute value, with file and line, on loading.
    """

    folder: str = ""
    train: str = ""  # files, relative to the folder; a split without a file does not exist
    val: str = ""
    test: str = ""
    hans: str = ""
    premise: str = "premise"  # names of columns
    hypothesis: str = "hypothesis"
    label: str = "label"
    attribute: str = "overlap"  # "overlap", "negation": computed; else the name of a column
    label_names: tuple[str, ...] = ("entailment", "neutral", "contradiction")
    attribute_names: tuple[str, ...] = ()  # values of the attribute's column, in order
    suggests: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # attribute value -> labels that the shortcut suggests there; computed attributes know theirs
    collapses: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {"non-entailment": ("neutral", "contradiction")}
    )  # label of these files -> labels of a net that count as it
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # split -> {column: value}: keeps rows with these values
    part: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # split -> "1/2": the first of two parts; pairs with one premise stay together
    limit: int = 0  # rows of each split at most, evenly spaced through the file; 0: all
    licence: str = "that of the files: see where they came from"

    places: ClassVar[tuple[str, ...]] = ("folder", "train", "val", "test", "hans")

    def __post_init__(self):
        if not self.folder:
            raise ValueError("nli_files: folder is empty: name the folder that holds the files")
        root = self._root()
        if not root.is_dir():
            raise FileNotFoundError(f"nli_files: folder = {self.folder!r} does not exist")
        if not self.splits:
            raise ValueError(f"nli_files: no file for any of {', '.join(self._files())}")
        for split in self.splits:
            path = root / self._files()[split]
            _format(path)
            if not path.is_file():
                place = path.parent if path.parent.is_dir() else root
                found = ", ".join(sorted(p.name for p in place.iterdir())) or "nothing"
                raise FileNotFoundError(f"nli_files: {split} = {path} not found; {place}: {found}")
        for option in ("where", "part"):
            for split in getattr(self, option):
                if split not in self.splits:
                    raise UnknownName(split, f"split in nli_files.{option}:", self.splits)
        for split in self.part:
            self._part(split)
        if self.attribute not in SHORTCUTS and not (self.attribute_names and self.suggests):
            raise ValueError(
                f"nli_files: attribute = {self.attribute!r} is a column, so attribute_names (its "
                "values) and suggests (the labels that each suggests) are needed; computed "
                f"attributes are {', '.join(SHORTCUTS)}"
            )
        for value, labels in self.suggests.items():
            _check(value, "attribute value in nli_files.suggests:", self._attribute_names())
            for label in labels:
                _check(label, f"label in nli_files.suggests.{value}:", self.label_names)

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that have a file."""
        return tuple(split for split, file in self._files().items() if file)

    @property
    def info(self) -> Info:
        computed = SHORTCUTS[self.attribute].suggests if self.attribute in SHORTCUTS else {}
        suggests = self.suggests or computed
        names = self._attribute_names()
        return Info(
            label_names=self.label_names,
            attribute_names=names,
            aligned=tuple(
                tuple(label in suggests.get(value, ()) for value in names)
                for label in self.label_names
            ),
            licence=self.licence,
            source=f"files in {self._root()}: {', '.join(filter(None, self._files().values()))}",
            collapses={k: tuple(v) for k, v in self.collapses.items() if k in self.label_names},
        )

    def reads(self, split: str) -> dict[str, pathlib.Path]:
        self.require(split)
        path = self._root() / self._files()[split]
        return {f"{split} {_format(path)}": path}

    def load(self, split: str) -> Split:
        self.require(split)
        path = self._root() / self._files()[split]
        keep = dict(self.where.get(split, {}))
        part, parts = self._part(split)
        names = {
            self.label: self.label_names,
            **({} if self.attribute in SHORTCUTS else {self.attribute: self.attribute_names}),
        }
        lines, rows = [], []
        for line, row in _rows(path):
            for name in (self.premise, self.hypothesis, *names, *keep):
                _check(name, f"column of {path}, line {line}:", row)
            if any(row[name] != str(value) for name, value in keep.items()):
                continue
            if zlib.crc32(row[self.premise].encode()) % parts != part - 1:
                continue
            for name, choices in names.items():
                _check(row[name], f"{name} in {path}, line {line}:", choices)
            lines.append(line)
            rows.append(row)
        if not rows:
            raise ValueError(f"nli_files: no row of {path} is left for split {split!r}")
        if 0 < self.limit < len(rows):
            chosen = [i * len(rows) // self.limit for i in range(self.limit)]
            lines, rows = [lines[i] for i in chosen], [rows[i] for i in chosen]
        return make_split(
            self.info,
            np.array([self.label_names.index(row[self.label]) for row in rows]),
            np.array([self._value(row) for row in rows]),
            id=np.array(lines),
            premise=np.array([row[self.premise] for row in rows]),
            hypothesis=np.array([row[self.hypothesis] for row in rows]),
        )

    def _root(self) -> pathlib.Path:
        return pathlib.Path(self.folder).expanduser()

    def _files(self) -> dict[str, str]:
        return {"train": self.train, "val": self.val, "test": self.test, "hans": self.hans}

    def _attribute_names(self) -> tuple[str, ...]:
        if self.attribute in SHORTCUTS:
            return tuple(SHORTCUTS[self.attribute].suggests)
        return self.attribute_names

    def _value(self, row: Row) -> int:
        if self.attribute in SHORTCUTS:
            holds = SHORTCUTS[self.attribute].holds(row[self.premise], row[self.hypothesis])
            return 0 if holds else 1
        return self.attribute_names.index(row[self.attribute])

    def _part(self, split: str) -> tuple[int, int]:
        text = self.part.get(split, "1/1")
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"nli_files: part of {split} = {text!r}, expected such as '1/2'")
        return int(found[1]), int(found[2])


def _check(name: str, place: str, choices: Any) -> None:
    if name not in choices:
        raise UnknownName(name, place, choices)


def _format(path: pathlib.Path) -> str:
    suffix = pathlib.Path(path.name.removesuffix(".gz")).suffix
    _check(suffix, f"format of {path}:", READERS)
    return suffix


def _rows(path: pathlib.Path) -> Iterator[tuple[int, Row]]:
    """(line number from 1, row) of a file; ValueError with file and line for a broken one."""
    reader = READERS[_format(path)]
    opened = gzip.open if path.name.endswith(".gz") else open
    line = 0
    try:
        with opened(path, "rt", encoding="utf-8", newline="\n") as file:
            for line, row in reader(file):
                yield line, row
    except (ValueError, EOFError, OSError, zlib.error, csv.Error) as error:
        raise ValueError(f"{path}: {error} (last good line: {line})") from error


def _tsv(file: Any) -> Iterator[tuple[int, Row]]:
    return _table(enumerate((line.rstrip("\r\n").split("\t") for line in file), 1))


def _csv(file: Any) -> Iterator[tuple[int, Row]]:
    reader = csv.reader(file, strict=True)
    return _table((reader.line_num, fields) for fields in reader)


def _table(lines: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, Row]]:
    header = next(lines, (1, []))[1]
    for number, fields in lines:
        if len(fields) != len(header):
            raise ValueError(
                f"line {number} has {len(fields)} fields, the header has {len(header)}"
            )
        yield number, dict(zip(header, fields))


def _jsonl(file: Any) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(file, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no JSON object: {line.strip()}")
        yield number, {key: str(value) for key, value in row.items()}


READERS = {".tsv": _tsv, ".csv": _csv, ".jsonl": _jsonl}
