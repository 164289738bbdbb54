"""Sets that are prepared once by TensorFlow Datasets and then read row by row, without TensorFlow.

A set says in an `Original` how its examples are read from the files that its authors distribute.
`preparing.py` writes them as TFDS does, in array_record; here they are read. A folder that TFDS
itself prepared is read as it is, so the features have TFDS's names where it knows the set.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from fairkd_jax import buckets
from fairkd_jax.data.archives import Source
from fairkd_jax.data.tfrecords import TfRecords
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Path

AT_ONCE = 1024  # records that are held while they are read
Example = Mapping[str, Any]  # feature -> value


@dataclasses.dataclass(frozen=True)
class Original:
    """The distribution of a set by its authors: what an example holds, how examples are read."""

    name: str  # of the folder that is written
    version: str  # raised when the same files give other examples
    features: Callable[[Any], Mapping[str, Any]]  # tfds.features -> features by name
    splits: Mapping[str, tuple[str, ...]]  # ours -> names of it in folders that others prepared
    read: Callable[[Source, str], Iterator[tuple[str, Example]]]
    # (files, split) -> (where it stands, "FILE, line 3"; example), in the order of the files
    key: str  # feature that names an example: no two of a split are equal
    citation: str
    published: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    # split -> "examples", "feature=value" or "feature=value, other=value" -> how many of the
    # authors' files the literature reports
    elsewhere: tuple[str, ...] = ()  # what TFDS calls the set: "snli", "glue/mnli"


class Records:
    """One split of a prepared folder."""

    def __init__(self, folder: Path, split: str, names: Sequence[str]):
        """`names`: what the split may be called. Raises UnknownName where it is not there, and
        ValueError, naming the folder, for files of which single examples cannot be read.
        """
        builder = _builder(str(buckets.near_folder(folder, ["*"])))
        there = [name for name in names if name in builder.info.splits]
        if not there:
            raise UnknownName(split, f"split of {folder}:", builder.info.splits)
        self.folder, self.features = folder, builder.info.features
        self.written = builder.info.splits[there[0]].num_examples  # as the folder tells
        self._source = _stored(builder, there[0])

    def __len__(self) -> int:
        return len(self._source)

    def names(self, feature: str) -> tuple[str, ...]:
        """The names that the numbers of a feature stand for."""
        return tuple(self._feature(feature).names)

    def rows(self, rows: Sequence[int] | np.ndarray, *wanted: str) -> list[tuple[Any, ...]]:
        """Features of some examples: numbers, texts and the files of images as bytes.

        "a/b" is b within a. Nothing else of an example is read, or decoded.
        """
        from tensorflow_datasets.proto import tf_example_pb2

        single = [not self._feature(name).shape for name in wanted]
        found = []
        for record in self._source.__getitems__([int(row) for row in rows]):
            features = tf_example_pb2.Example.FromString(record).features.feature
            found.append(tuple(_value(features[n], one) for n, one in zip(wanted, single)))
        return found

    def columns(self, *wanted: str) -> dict[str, Any]:
        """Features of all examples: numbers as arrays, texts as lists. "a/b" is b within a."""
        found: dict[str, list] = {name: [] for name in wanted}
        for start in range(0, len(self), AT_ONCE):
            for row in self.rows(range(start, min(start + AT_ONCE, len(self))), *wanted):
                for values, value in zip(found.values(), row):
                    values.append(value)
        return {name: _as_column(values) for name, values in found.items()}

    def has(self, feature: str) -> bool:
        """Is there such a feature?"""
        try:
            self._feature(feature)
        except UnknownName:
            return False
        return True

    def _feature(self, name: str) -> Any:
        feature = self.features
        for part in name.split("/"):
            if part not in (feature or {}):
                raise UnknownName(name, f"feature of {self.folder}:", self.features)
            feature = feature[part]
        return feature


def _value(feature: Any, single: bool) -> Any:
    """What TFDS keeps of a feature: one value, or a list of them."""
    kind = feature.WhichOneof("kind")
    values = getattr(feature, kind).value if kind else []
    return values[0] if single or kind == "bytes_list" else np.array(values)


def _as_column(values: list) -> Any:
    if values and isinstance(values[0], bytes):
        return [value.decode() for value in values]
    return np.array(values)


def folder_of(original: Original, data_dir: str) -> Path:
    """Where a set lies prepared: by us, or by TFDS under a name of its own.

    `data_dir` holds NAME/VERSION, or is such a folder; "" is TFDS's own, ~/tensorflow_datasets.
    Raises ValueError, with the command that prepares it, where there is none.
    """
    top = buckets.path(data_dir or "~/tensorflow_datasets")
    if (top / "dataset_info.json").exists():
        return top
    ours = top / original.name / original.version
    if (ours / "dataset_info.json").exists():
        return ours
    for name in original.elsewhere:
        versions = [p.parent for p in (top / name).glob("*/dataset_info.json")]
        numbered = [p for p in versions if re.fullmatch(r"\d+\.\d+\.\d+", p.name)]
        if numbered:
            return max(numbered, key=lambda p: [int(n) for n in p.name.split(".")])
    raise ValueError(
        f"{top} does not hold {original.name} {original.version}: prepare it from the files of its "
        f"authors, fairkd-data --set={original.name} --source=FOLDER_OR_ZIP --data_dir={top}"
    )


def files_of(original: Original, data_dir: str, split: str) -> dict[str, Path]:
    """The files that a split is read from, by a name that does not say where they lie."""
    folder = folder_of(original, data_dir)
    kinds = ("array_record", "tfrecord")
    found = ([*folder.glob(f"*-{k}.{kind}*")] for kind in kinds for k in original.splits[split])
    shards = next(filter(None, found), [])
    return {p.name: p for p in [folder / "features.json", *sorted(shards)]}


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What prepared sets share: where they lie, and what a split is read from."""

    data_dir: str = ""

    places: ClassVar[tuple[str, ...]] = ("data_dir",)

    def distribution(self) -> Original:
        """The files of its authors, and what TFDS calls the part of them that is wanted."""
        return self.original

    def part_of(self, split: str) -> str:
        """The split of the distribution that one of the set is a part of."""
        return split

    def reads(self, split: str) -> dict[str, Path]:
        self.require(split)
        return files_of(self.distribution(), self.data_dir, self.part_of(split))

    def records(self, split: str) -> Records:
        """What a split is read from. Raises as `folder_of` and `Records` do."""
        self.require(split)
        original, part = self.distribution(), self.part_of(split)
        return Records(folder_of(original, self.data_dir), part, original.splits[part])


@functools.lru_cache(maxsize=8)
def _builder(folder: str) -> Any:
    import tensorflow_datasets as tfds  # takes a second

    return tfds.builder_from_directory(folder)


def _stored(builder: Any, split: str) -> Any:
    """The examples of a split as they are stored, of which a reader takes what it wants."""
    import tensorflow_datasets as tfds

    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    try:
        return builder.as_data_source(split=split, deserialize_method=raw)
    except NotImplementedError as error:
        kind = builder.info.file_format.value
        if kind == "tfrecord":
            return TfRecords(map(pathlib.Path, builder.info.splits[split].filepaths))
        raise ValueError(
            f"{builder.data_dir} holds {kind}, of which no single example can be read; of "
            "array_record and tfrecord they can: `tfds convert_format`, where it was prepared"
        ) from error
