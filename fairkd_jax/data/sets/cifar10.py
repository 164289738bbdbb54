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

from fairkd_jax.data import pictures
from fairkd_jax.data.archives import Source, content
from fairkd_jax.data.dataset import DataSet
from fairkd_jax.data.planting import Planted
from fairkd_jax.data.prepared import Example, Original, Prepared, Records

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
class Cifar10(Planted, Prepared, DataSet):
    """Ten classes, with a planted shortcut (`data/planting.py`)."""

    plant: str = "corruption"
    strength: float = 0.6
    size: int = 32

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

    def class_names(self) -> tuple[str, ...]:
        return CLASSES

    def label_of(self, records: Records) -> np.ndarray:
        number = np.array([CLASSES.index(name) for name in records.names("label")])
        return number[records.columns("label")["label"]]
