"""Files with columns that a user has: what the sets of pairs, of texts and of images in them share.

A row is an example: a column holds its label, another its attribute, others what nets read. Here
are the options, what is wrong with them, and how rows become a split; a set that mixes this in says
which columns nets read (`inputs`), and makes raw columns of them (`raw`).
"""

import dataclasses
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from fairkd_jax import buckets, registry
from fairkd_jax.data.dataset import Info, Split, make_split
from fairkd_jax.data.rows import Row, as_name, format_of, read_rows
from fairkd_jax.data.shortcuts import Shortcut, attribute_of
from fairkd_jax.data.subpopulations import by_value
from fairkd_jax.recipe import later
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Path


@dataclasses.dataclass(frozen=True)
class ColumnFiles:
    """Options of a set whose splits are files: .tsv or .txt (tabs, no quoting), .csv or .jsonl,
    each of them also as .gz, or .parquet.

    Every row of a file is in its split, its line number as id, or counted in `left_out`.

    Raises ValueError or FileNotFoundError for a missing folder or file and for labels of which no
    attribute value says anything when it is made; for a broken row, an unknown label or attribute
    value or a text that is missing, with file and line, on loading.
    """

    folder: str = ""
    train: str = ""  # files, relative to the folder; a split without a file does not exist
    val: str = ""
    test: str = ""
    label: str = "label"  # names of columns
    attribute: str = ""  # or of one that is computed from what nets read
    label_names: tuple[Any, ...] = ()
    label_map: Mapping[Any, str] = dataclasses.field(default_factory=dict)
    # label as the files write it -> its name, where they differ: {"e": "entailment"}
    skip_labels: tuple[Any, ...] = ()  # labels of rows to leave out: ("-",) in SNLI
    skip_empty: bool = False  # leave out rows without something that nets read, else an error
    attribute_names: tuple[Any, ...] = ()  # values of the attribute's column, in order
    suggests: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # attribute value -> labels that the shortcut suggests there; computed attributes know some.
    # Where all values suggest the same, as in HANS, the other labels are those that conflict
    never_suggested: tuple[str, ...] = ()  # labels that no value suggests, though values differ
    collapses: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # label of these files -> labels of a net that count as it
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # split -> {column: value or values}: keeps rows with one of these values
    part: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # split -> "1/2": the first of two parts; rows that are alike in the first column that nets read
    # stay together
    limit: int = 0  # rows of each split at most, evenly spaced through the file; 0: all
    subpopulations: Any = later({})
    # split -> column or columns: the rows of each of its values are scored by themselves too
    licence: str = "that of the files: see where they came from"

    places: ClassVar[tuple[str, ...]] = ("folder", "train", "val", "test")
    files: ClassVar[tuple[str, ...]] = ("train", "val", "test")  # options that name a split's file
    inputs: ClassVar[tuple[str, ...]] = ()  # options that name the columns that nets read
    computed: ClassVar[Mapping[str, Shortcut]] = {}  # attributes that these show by themselves

    def raw(self, split: str, path: Path, rows: Mapping[int, Row]) -> Mapping[str, Any]:
        """What nets read of rows by their lines: columns, as `make_split` takes them."""
        return {o: [row[getattr(self, o)] for row in rows.values()] for o in self.inputs}

    def __post_init__(self):
        if not self.folder:
            raise ValueError(f"{self._who}: folder is empty: name the folder that holds the files")
        root = self._root()
        if not root.is_dir():
            raise FileNotFoundError(f"{self._who}: folder = {self.folder!r} does not exist")
        if not self.splits:
            raise ValueError(f"{self._who}: no file for any of {', '.join(self._files())}")
        for split in self.splits:
            path = root / self._files()[split]
            format_of(path)
            if not path.is_file():
                place = path.parent if path.parent.is_dir() else root
                found = ", ".join(sorted(p.name for p in place.iterdir())) or "nothing"
                raise FileNotFoundError(
                    f"{self._who}: {split} = {path} not found; {place}: {found}"
                )
        if not isinstance(self.subpopulations, Mapping):
            raise ValueError(
                f"{self._who}: subpopulations = {self.subpopulations!r}: say of which split these "
                f"are columns, subpopulations = {{{self.splits[-1]!r}: ...}}"
            )
        for option in ("where", "part", "subpopulations"):
            for split in getattr(self, option):
                _check(split, f"split in {self._who}.{option}:", self.splits)
        for split in self.splits:
            self._part(split)
            self._where(split)
        self._check_columns()
        self._check_names()
        self._check_suggestions()

    def _check_columns(self) -> None:
        columns = {o: getattr(self, o) for o in (*self.inputs, "label", "attribute")}
        for option, column in columns.items():
            others = [o for o, other in columns.items() if o != option and other == column]
            if not column or others:
                also = f", as {' and '.join(others)} is" if column else ""
                raise ValueError(
                    f"{self._who}: {option} = {column!r}{also}: name a column of its own"
                )
        if self.limit < 0:
            raise ValueError(f"{self._who}: limit = {self.limit}, expected 0 (all rows) or more")

    def _check_names(self) -> None:
        if not self.label_names:
            raise ValueError(f"{self._who}: label_names is empty: name the labels, in order")
        for option in ("label_names", "attribute_names"):
            names = getattr(self, option)
            if not all(isinstance(name, str) for name in names):
                raise ValueError(
                    f"{self._who}: {option} = {names!r}: names are texts. Where the files hold "
                    f"whole numbers, give the texts of these in order: {tuple(map(str, names))!r}; "
                    "for labels better what they mean: label_names = ('entailment', ...), "
                    "label_map = {'0': 'entailment', ...}"
                )
            if len(set(names)) < len(names):
                raise ValueError(f"{self._who}: {option} = {names!r}: a name occurs twice")
        for written, name in self.label_map.items():
            _check(name, f"label in {self._who}.label_map.{written}:", self.label_names)
        for name in self.skip_labels:
            if as_name(name) in self._labels():
                raise ValueError(
                    f"{self._who}: {name!r} is to be left out by skip_labels and kept by "
                    "label_names or label_map: choose one"
                )
        for name in self.never_suggested:
            _check(name, f"label in {self._who}.never_suggested:", self.label_names)

    def _check_suggestions(self) -> None:
        if self.attribute not in self.computed and not (self.attribute_names and self.suggests):
            raise ValueError(
                f"{self._who}: attribute = {self.attribute!r} is a column, so attribute_names (its "
                "values) and suggests (the labels that each suggests) are needed; computed "
                f"attributes are {', '.join(self.computed) or 'none of a set like this'}"
            )
        for value, labels in self._said().items():
            _check(value, f"attribute value in {self._who}.suggests:", self._attribute_names())
            for label in labels:
                _check(label, f"label in {self._who}.suggests.{value}:", self.label_names)
        suggests = self._suggests()
        silent = [v for v in self._attribute_names() if not suggests.get(v)]
        if silent and self.attribute not in self.computed:
            raise ValueError(
                f"{self._who}: suggests has no label for attribute value {silent[0]!r}"
            )
        told = {label for labels in suggests.values() for label in labels}
        alike = len({frozenset(suggests[v]) for v in self._attribute_names()}) == 1
        forgotten = [n for n in self.label_names if n not in {*told, *self.never_suggested}]
        if forgotten and not alike:
            raise ValueError(
                f"{self._who}: no value of attribute {self.attribute!r} suggests the label "
                f"{', '.join(map(repr, forgotten))}, so no pair with it could count as aligned. "
                + (
                    f"{self.attribute!r} knows {', '.join(sorted(told))}: where the files only "
                    "spell these otherwise, use the known names in label_names and say "
                    f"label_map = {{{forgotten[0]!r}: {sorted(told)[0]!r}}} or the like; else say "
                    if self.attribute in self.computed
                    else "Say "
                )
                + "which labels each value suggests: suggests = "
                f"{{{', '.join(f'{v!r}: (...)' for v in suggests)}}}, or never_suggested = "
                f"{tuple(forgotten)!r} if that is meant"
            )

    @property
    def _who(self) -> str:
        return registry.name_of(type(self))

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that have a file."""
        return tuple(split for split, file in self._files().items() if file)

    @property
    def info(self) -> Info:
        suggests, names = self._suggests(), self._attribute_names()
        return Info(
            label_names=self.label_names,
            attribute_names=names,
            aligned=tuple(
                tuple(label in suggests[value] for value in names) for label in self.label_names
            ),
            licence=self.licence,
            source=f"files in {self._root()}: {', '.join(filter(None, self._files().values()))}",
            collapses={k: tuple(v) for k, v in self.collapses.items() if k in self.label_names},
        )

    def reads(self, split: str) -> dict[str, Path]:
        self.require(split)
        path = self._root() / self._files()[split]
        return {f"{split} {format_of(path)}": path}

    def load(self, split: str) -> Split:
        self.require(split)
        path = self._root() / self._files()[split]
        left_out: Counter[str] = Counter()
        kept = self._limited([*self._kept(split, path, left_out)], path, left_out)
        rows = [row for _, row in kept]
        info, labels, member = self.info, self._labels(), {}
        if columns := {c: [row[c] for row in rows] for c in self._scored(split)}:
            place = f"{self._who}: subpopulations.{split} of {path}"
            names, member["member"] = by_value(columns, place)
            info = dataclasses.replace(info, subpopulations=names)
        made = make_split(
            info,
            np.array([labels[row[self.label]] for row in rows]),
            self._values(rows),
            id=np.array([line for line, _ in kept]),
            **member,
            **self.raw(split, path, dict(kept)),
        )
        return dataclasses.replace(made, left_out=dict(left_out))

    def attribute_of(self, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The attribute of raw columns, int32 [n]; None where they do not show it by themselves."""
        shortcut = self.computed.get(self.attribute)
        return attribute_of(shortcut, *(columns[option] for option in self.inputs))

    def _values(self, rows: list[Row]) -> np.ndarray:
        """The attribute of rows."""
        texts = ([row[getattr(self, option)] for row in rows] for option in self.inputs)
        values = attribute_of(self.computed.get(self.attribute), *texts)
        if values is None:
            places = {name: i for i, name in enumerate(self.attribute_names)}
            values = np.array([places[row[self.attribute]] for row in rows], np.int32)
        return values

    def _kept(self, split: str, path: Path, left_out: Counter[str]) -> Iterator[tuple[int, Row]]:
        """Rows of the split, checked, with their lines; those left out are counted by reason."""
        where, (part, parts) = self._where(split), self._part(split)
        found: dict[str, set[str]] = {column: set() for column in where}
        choices, skipped = self._choices(), {as_name(label) for label in self.skip_labels}
        kept, inputs = 0, [getattr(self, option) for option in self.inputs]
        named = (*choices, *where, *self._scored(split))
        for line, row in read_rows(path, inputs, named):
            for column, values in found.items():
                values.add(row[column])
            if any(row[column] not in values for column, values in where.items()):
                left_out["where"] += 1
            elif zlib.crc32(row[inputs[0]].encode()) % parts != part - 1:
                left_out["part"] += 1
            elif row[self.label] in skipped:
                left_out[f"{self.label} {row[self.label]!r}"] += 1
            elif not self._has_texts(row, f"{path}, line {line}"):
                left_out["no text"] += 1
            else:
                for column, names in choices.items():
                    if row[column] not in names:
                        raise self._unknown(row[column], column, f"{path}, line {line}", names)
                kept += 1
                yield line, row
        if not kept:
            reasons = ", ".join(f"{reason}: {n}" for reason, n in left_out.items())
            raise ValueError(
                f"{self._who}: no row of {path} is left for split {split!r}; "
                f"left out: {reasons or 'none, it has no rows'}"
            )
        for column, values in where.items():
            for value in values:
                _check(value, f"value in {self._who}.where.{split}.{column}:", found[column])

    def _limited(
        self, rows: list[tuple[int, Row]], path: Path, left_out: Counter[str]
    ) -> list[tuple[int, Row]]:
        """At most `limit` rows, evenly spaced; ValueError if no row of some name remains."""
        if not 0 < self.limit < len(rows):
            return rows
        left_out["limit"] = len(rows) - self.limit
        chosen = [rows[i * len(rows) // self.limit] for i in range(self.limit)]
        for column in self._choices():
            lost = {row[column] for _, row in rows} - {row[column] for _, row in chosen}
            if lost:
                raise ValueError(
                    f"{self._who}: limit = {self.limit} takes every {len(rows) / self.limit:g}th "
                    f"of {len(rows)} rows of {path}, and none of them has {column} = "
                    f"{min(lost)!r}: choose another limit"
                )
        return chosen

    def _root(self) -> Path:
        return buckets.path(self.folder)

    def _files(self) -> dict[str, str]:
        return {split: getattr(self, split) for split in self.files}

    def _labels(self) -> dict[str, int]:
        """Label as the files write it -> its number."""
        numbers = {name: i for i, name in enumerate(self.label_names)}
        return numbers | {as_name(k): numbers[name] for k, name in self.label_map.items()}

    def _choices(self) -> dict[str, tuple[str, ...]]:
        """Column of names -> values that it may have."""
        column = {} if self.attribute in self.computed else {self.attribute: self.attribute_names}
        return {self.label: tuple(self._labels())} | column

    def _attribute_names(self) -> tuple[str, ...]:
        if self.attribute in self.computed:
            return tuple(self.computed[self.attribute].suggests)
        return self.attribute_names

    def _suggests(self) -> dict[str, tuple[str, ...]]:
        """Attribute value -> labels: what the user says, before what a computed one knows."""
        known = self.computed[self.attribute].suggests if self.attribute in self.computed else {}
        told = {**known, **self._said()}
        return {value: told.get(value, ()) for value in self._attribute_names()}

    def _said(self) -> dict[str, tuple[str, ...]]:
        """`suggests`, in which names may be the whole numbers that files write."""
        return {
            as_name(value): tuple(as_name(label) for label in _several(labels))
            for value, labels in self.suggests.items()
        }

    def _has_texts(self, row: Row, place: str) -> bool:
        for column in (getattr(self, option) for option in self.inputs):
            if not row[column] or row[column].isspace():
                if self.skip_empty:
                    return False
                raise ValueError(
                    f"{self._who}: {column} in {place} is empty; skip_empty = True leaves out and "
                    "counts such rows"
                )
        return True

    def _unknown(self, value: str, column: str, place: str, names: Collection[str]) -> ValueError:
        """What to say of a label or an attribute value that no name is given for."""
        if column != self.label:
            return UnknownName(value, f"{column} in {place}:", names)
        if re.fullmatch(r"[+-]?\d+", value):
            return ValueError(
                f"{self._who}: {column} in {place} is the whole number {value}, not one of "
                f"{', '.join(names)}: say what the numbers mean, label_map = {{{value!r}: "
                f"{self.label_names[0]!r}, ...}}, or give label_names as the texts of the numbers"
            )
        remedy = "label_map can rename it, skip_labels leave its rows out"
        return UnknownName(value, f"{column} in {place} ({remedy}):", names)

    def _scored(self, split: str) -> tuple[str, ...]:
        """The columns whose values are subpopulations of a split."""
        return tuple(_several(self.subpopulations.get(split, ())))

    def _part(self, split: str) -> tuple[int, int]:
        text = str(self.part.get(split, "1/1"))
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"{self._who}: part of {split} = {text!r}, expected such as '1/2'")
        return int(found[1]), int(found[2])

    def _where(self, split: str) -> dict[str, tuple[str, ...]]:
        """Column -> its values in rows to keep, as the files' readers give them."""
        wanted = {}
        for column, values in self.where.get(split, {}).items():
            place = f"{self._who}: where.{split}.{column}"
            if not column or not _several(values):
                raise ValueError(f"{place} = {values!r}: name a column and a value to keep")
            try:
                wanted[column] = tuple(as_name(value) for value in _several(values))
            except ValueError as error:
                raise ValueError(f"{place} = {error}") from error
        return wanted


def _several(value: Any) -> Collection[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _check(name: Any, place: str, choices: Collection[str]) -> None:
    if name not in choices:
        raise UnknownName(str(name), place, choices)
