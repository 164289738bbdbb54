"""Photographs of ten things (CIFAR-10) with a planted colour, patch or corruption.

fairkd-data --set=cifar10 --source=cifar-10-binary.tar.gz --data_dir=DIR
{"name": "cifar10", "data_dir": DIR, "plant": "corruption", "correlation": 0.95, "strength": 0.8}

The binary version alone: the others are pickles, which are not read. Ten corruptions at home in one
class each are much as in corrupted CIFAR-10 (arXiv 2007.02561).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from fairkd_jax.data import corruptions, pictures, prepared
from fairkd_jax.data.archives import Source, content
from fairkd_jax.data.dataset import DataSet, Info, Split
from fairkd_jax.data.planting import Planted
from fairkd_jax.data.prepared import Example, Original
from fairkd_jax.types import Path

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip
FILES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
BYTES = 1 + 3 * 32 * 32  # of one image: its label, then its channels


def _features(tfds: Any) -> dict[str, Any]:
    return {
        "id": tfds.Text(),
        "image": tfds.Image(shape=(32, 32, 3)),
        "label": tfds.ClassLabel(names=CLASSES),
    }


def _read(source: Source, split: str) -> Iterator[tuple[str, Example]]:
    number = 0
    for path in map(source.file, FILES[split]):
        data = content(path)
        if len(data) % BYTES:
            raise ValueError(
                f"{path} holds {len(data)} bytes, no whole number of images of {BYTES}: it is cut "
                f"within image {len(data) // BYTES}"
            )
        rows = np.frombuffer(data, np.uint8).reshape(-1, BYTES)
        for row, (label, *_) in enumerate(rows[:, :1].tolist()):
            place = f"{path}, image {row}"
            if label > 9:
                raise ValueError(f"{place}: label {label}, expected 0 to 9")
            pixels = rows[row, 1:].reshape(3, 32, 32).transpose(1, 2, 0)
            name = f"{split}_{number:05d}"
            yield place, {"id": name, "image": pictures.as_png(pixels), "label": CLASSES[label]}
            number += 1


@dataclasses.dataclass(frozen=True)
class Cifar10(DataSet):
    """Ten classes, with a planted shortcut (`data/planting.py`).

    train      nine of ten official training images; in a share `correlation` of each class the
               value planted is that of the class
    val        the others; each value as often as another
    test       the official test images; each value as often as another
    corrupted  those in each of `kinds` and `severities`, its subpopulations
    """

    data_dir: str = ""
    plant: str = "corruption"  # colour, patch or corruption
    strength: float = 0.6  # of what is planted; a corruption's severity is five times this
    correlation: float = 0.95
    label_noise: float = 0.0
    kinds: tuple[str, ...] = tuple(corruptions.KINDS)
    severities: tuple[int, ...] = corruptions.SEVERITIES
    val: float = 0.1
    size: int = 32
    seed: int = 0  # of the data, not of training

    splits = ("train", "val", "test", "corrupted")
    places: ClassVar[tuple[str, ...]] = ("data_dir",)
    original: ClassVar[Original] = Original(
        name="cifar10",
        version="3.0.2",
        features=_features,
        splits={"train": ("train",), "test": ("test",)},
        read=_read,
        key="id",
        citation="Krizhevsky: learning multiple layers of features from tiny images, 2009",
        published={"train": {"examples": 50_000}, "test": {"examples": 10_000}},
        elsewhere=("cifar10",),
    )

    def __post_init__(self):
        self._planted().check("cifar10", len(CLASSES))

    @property
    def info(self) -> Info:
        return self._planted().info(CLASSES, "not stated by its authors", "CIFAR-10")

    def reads(self, split: str) -> dict[str, Path]:
        self.require(split)
        return prepared.files_of(self.original, self.data_dir, _part(split))

    def load(self, split: str) -> Split:
        self.require(split)
        records = prepared.open_records(self.original, self.data_dir, _part(split))
        number = np.array([CLASSES.index(name) for name in records.names("label")])
        label = number[records.columns("label")["label"]]
        return self._planted().split(split, records, label, self.info, self.size)

    def _planted(self) -> Planted:
        return Planted(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Planted)})


def _part(split: str) -> str:
    return "train" if split in ("train", "val") else "test"
