"""Handwritten digits (MNIST) with a planted colour, patch or corruption.

fairkd-data --set=mnist --source=FOLDER --data_dir=DIR
{"name": "mnist", "data_dir": DIR, "plant": "colour", "correlation": 0.95}

FOLDER holds the four idx files of its authors, train-images-idx3-ubyte.gz and so on. With two
classes, colour, correlation .9 and label_noise .25 it is much as in arXiv 1907.02893.
"""

import dataclasses
import gzip
import zlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from fairkd_jax.data import pictures
from fairkd_jax.data.archives import AnyPath, Source, content
from fairkd_jax.data.dataset import DataSet
from fairkd_jax.data.planting import Planted
from fairkd_jax.data.prepared import Example, Original, Prepared, Records

DIGITS = tuple(map(str, range(10)))


def _features(tfds: Any) -> dict[str, Any]:
    return {
        "image": tfds.Image(shape=(28, 28, 1)),
        "label": tfds.ClassLabel(names=DIGITS),
        "file": tfds.Text(),
    }


def _read(source: Source, split: str) -> Iterator[tuple[str, Example]]:
    part = {"train": "train", "test": "t10k"}[split]
    (path, images), (labels, numbers) = (
        _idx(source.file(f"{part}-{what}-idx{n}-ubyte*", f"{part}-{what}.idx{n}-ubyte*"), n)
        for what, n in (("images", 3), ("labels", 1))
    )
    if len(images) != len(numbers):
        raise ValueError(f"{path} holds {len(images)} images, {labels} {len(numbers)} labels")
    for row, (image, number) in enumerate(zip(images, numbers)):
        if number > 9:
            raise ValueError(f"{labels}, label {row} is {number}, expected 0 to 9")
        example = {"label": str(number), "file": f"{path.name}, image {row}"}
        yield f"{path}, image {row}", {"image": pictures.as_png(image), **example}


def _idx(path: AnyPath, dimensions: int) -> tuple[AnyPath, np.ndarray]:
    """An array of bytes: two zeros, 8, how many dimensions, then their sizes, then the array."""
    data = content(path)
    try:
        data = gzip.decompress(data) if path.name.endswith(".gz") else data
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no whole .gz: {error}") from error
    start = 4 + 4 * dimensions
    if data[:4] != bytes((0, 0, 8, dimensions)) or len(data) < start:
        raise ValueError(f"{path} is no idx file of bytes in {dimensions} dimensions")
    shape = tuple(np.frombuffer(data[4:start], ">i4").tolist())
    if len(data) - start != np.prod(shape):
        raise ValueError(
            f"{path} says that it holds {shape}; {len(data) - start} bytes follow, not "
            f"{np.prod(shape)}"
        )
    return path, np.frombuffer(data, np.uint8, offset=start).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Mnist(Planted, Prepared, DataSet):
    """Digits, or ranges of them, with a planted shortcut (`data/planting.py`)."""

    classes: int = 10  # ranges of digits

    original: ClassVar[Original] = Original(
        name="mnist",
        version="3.0.1",
        features=_features,
        splits={"train": ("train",), "test": ("test",)},
        read=_read,
        key="file",
        citation="LeCun, Cortes, Burges: the MNIST database of handwritten digits",
        published={"train": {"examples": 60_000}, "test": {"examples": 10_000}},
        elsewhere=("mnist",),
    )

    def __post_init__(self):
        if not 2 <= self.classes <= 10:
            raise ValueError(f"mnist: classes = {self.classes}, expected 2 to 10")
        super().__post_init__()

    def class_names(self) -> tuple[str, ...]:
        digits = [np.flatnonzero(self._label(np.arange(10)) == c) for c in range(self.classes)]
        return tuple(f"{d[0]} to {d[-1]}" if len(d) > 1 else f"{d[0]}" for d in digits)

    def label_of(self, records: Records) -> np.ndarray:
        return self._label(records.columns("label")["label"])

    def _label(self, digit: np.ndarray) -> np.ndarray:
        return digit * self.classes // 10
