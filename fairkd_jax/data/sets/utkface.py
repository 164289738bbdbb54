"""Faces with age, gender and race in their file names (UTKFace, arXiv 1702.08423).

fairkd-data --set=utkface --source=UTKFace --data_dir=DIR
{"name": "utkface", "data_dir": DIR, "label": "gender", "attribute": "age", "size": 64}

The source is the folder of aligned and cropped faces, AGE_GENDER_RACE_DATE.jpg or .jpg.chip.jpg, or
its archive. There is no official split: a face's is drawn by the last part of its name.
"""

import dataclasses
import hashlib
import io
import re
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from fairkd_jax.data import pictures
from fairkd_jax.data.archives import Source, content
from fairkd_jax.data.dataset import DataSet, Info, Split, make_split
from fairkd_jax.data.prepared import Example, Original, Prepared
from fairkd_jax.registry import UnknownName

GENDERS = ("male", "female")
RACES = ("White", "Black", "Asian", "Indian", "Others")
NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_(\d+)\.jpg")  # without what some copies append
SHARES = {"test": 0.2, "val": 0.3, "train": 1.0}  # of names, up to here
FACTORS = ("gender", "age", "race", "white")
BAD_NAME = "file names that do not tell age, gender and race"


def _features(tfds: Any) -> dict[str, Any]:
    return {
        "image": tfds.Image(),
        "file": tfds.Text(),
        "age": tfds.Scalar(np.int64),  # years; -1: the name does not tell
        "gender": tfds.ClassLabel(names=GENDERS),
        "race": tfds.ClassLabel(names=RACES),
    }


def _read(source: Source, split: str) -> Iterator[tuple[str, Example]]:
    files = source.files("UTKFace/*.jpg") or source.files("*.jpg")
    if not files:
        source.file("*.jpg")
    for name, path in files.items():
        place = str(path)
        told = NAME.fullmatch(name.removesuffix(".chip.jpg"))
        age, gender, race = (int(told[i]) if told else -1 for i in (1, 2, 3))
        yield (
            place,
            {
                "image": io.BytesIO(content(path)),
                "file": name,
                "age": age,
                "gender": GENDERS[gender] if told else -1,
                "race": RACES[race] if told else -1,
            },
        )


def _share(name: str) -> float:
    """A number in [0, 1) for the last part of a name, the time when the face was collected."""
    when = name.removesuffix(".chip.jpg").removesuffix(".jpg").rpartition("_")[2]
    return int(hashlib.sha256(when.encode()).hexdigest()[:8], 16) / 2**32


@dataclasses.dataclass(frozen=True)
class Utkface(Prepared, DataSet):
    """One factor is to be told, another is the shortcut: gender, age, race, or white (or not).

    In training the factors are correlated as they are; `data.correlation` makes more of it. Value a
    of the attribute is taken to suggest label a, or a modulo the number of labels: young men and
    old women are aligned by default.
    """

    label: str = "gender"
    attribute: str = "age"
    ages: tuple[int, ...] = (20,)  # years at which an age group ends
    size: int = 200
    frame: str = "square"

    splits = ("train", "val", "test")
    original: ClassVar[Original] = Original(
        name="utkface",
        version="1.0.0",
        features=_features,
        splits={"all": ("train",)},
        read=_read,
        key="file",
        citation="arXiv:1702.08423",
        published={"all": {"examples": 23_708}},
    )

    def __post_init__(self):
        for option in ("label", "attribute"):
            if getattr(self, option) not in FACTORS:
                raise UnknownName(getattr(self, option), f"{option} of utkface:", FACTORS)
        if self.label == self.attribute:
            raise ValueError(f"utkface: label and attribute are both {self.label!r}")
        if not self.ages or [*self.ages] != sorted(set(self.ages)) or self.ages[0] < 1:
            raise ValueError(f"utkface: ages = {self.ages}, expected years, ever more")
        pictures.check("utkface", self.size, self.frame)

    @property
    def info(self) -> Info:
        labels, values = self._names(self.label), self._names(self.attribute)
        return Info(
            label_names=labels,
            attribute_names=values,
            aligned=tuple(
                tuple(a % len(labels) == y for a in range(len(values))) for y in range(len(labels))
            ),
            licence="non-commercial research only",
            source="UTKFace, arXiv 1702.08423",
        )

    def part_of(self, split: str) -> str:
        return "all"

    def load(self, split: str) -> Split:
        records = self.records(split)
        read = records.columns("file", "age", "gender", "race")
        share = np.array([_share(name) for name in read["file"]])
        first = np.searchsorted([*SHARES.values()], share, side="right")
        mine = first == [*SHARES].index(split)
        rows = np.flatnonzero(mine & (read["age"] >= 0))
        told = {name: read[name][rows] for name in ("age", "gender", "race")}
        made = make_split(
            self.info,
            self._values(self.label, told),
            self._values(self.attribute, told),
            id=rows,
            image=pictures.of_records(records, self.size, self.frame, rows),
        )
        bad = int(np.sum(mine & (read["age"] < 0)))
        return dataclasses.replace(made, left_out={BAD_NAME: bad} if bad else {})

    def _names(self, factor: str) -> tuple[str, ...]:
        ages = (f"under {self.ages[0]}", *(f"{y} and over" for y in self.ages))
        if len(self.ages) > 1:
            between = [f"{a} to {b - 1}" for a, b in zip(self.ages, self.ages[1:])]
            ages = (ages[0], *between, ages[-1])
        named = {"gender": GENDERS, "race": RACES, "white": ("White", "not White"), "age": ages}
        return named[factor]

    def _values(self, factor: str, told: dict[str, np.ndarray]) -> np.ndarray:
        if factor == "age":
            return np.searchsorted(self.ages, told["age"], side="right")
        return np.minimum(told["race"], 1) if factor == "white" else told[factor]
