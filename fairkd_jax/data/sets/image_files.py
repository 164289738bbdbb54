"""Images from the user's own folder or archive, with a file of columns that says what they show.

{"name": "image_files", "folder": F, "images": "pictures", "train": "faces.csv", "val": "faces.csv",
 "where": {"train": {"split": "train"}, "val": {"split": "val"}},
 "file": "file", "label": "smiles", "label_names": ("0", "1"), "attribute": "sex",
 "attribute_names": ("female", "male"), "suggests": {"female": "1", "male": "0"}, "size": 64}
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from fairkd_jax import buckets
from fairkd_jax.data import archives, pictures
from fairkd_jax.data.archives import AnyPath, Source
from fairkd_jax.data.columns import ColumnFiles
from fairkd_jax.data.dataset import DataSet
from fairkd_jax.data.rows import Row
from fairkd_jax.types import Path


@dataclasses.dataclass(frozen=True)
class ImageFiles(ColumnFiles, DataSet):
    """Splits of images from files with columns; all other options are those of `data/columns.py`.

    Raises as `nli_files` does, and ValueError, with file and line, for an image that is not there;
    with its file for one that is broken, when it is asked for.
    """

    images: str = ""  # folder or archive, .zip or .tar, relative to `folder`; "": `folder` itself
    file: str = "file"  # name of the column that holds paths of images from there
    size: int = 224
    frame: str = "square"  # which part, see `pictures.FRAMES`

    inputs: ClassVar[tuple[str, ...]] = ("file",)
    places: ClassVar[tuple[str, ...]] = (*ColumnFiles.places, "images")

    def __post_init__(self):
        pictures.check("image_files", self.size, self.frame)
        super().__post_init__()
        if not self._images().exists():
            raise FileNotFoundError(f"image_files: images = {self._images()} does not exist")

    def reads(self, split: str) -> dict[str, Path]:
        """The file of columns, and the folder or archive of images."""
        return {**super().reads(split), "images": self._images()}

    def raw(self, split: str, path: Path, rows: Mapping[int, Row]) -> Mapping[str, Any]:
        """{"image": a column}."""
        there = Source(self._images()).all
        wanted: list[AnyPath] = []
        for line, row in rows.items():
            name = row[self.file].strip()
            if name not in there:
                raise ValueError(f"{path}, line {line}: {self._images()} holds no image {name!r}")
            wanted.append(there[name])

        def read(chosen: np.ndarray) -> list[tuple[str, bytes]]:
            return [(str(wanted[i]), archives.content(wanted[i])) for i in chosen]

        return {"image": pictures.Pictures(read, len(wanted), self.size, self.frame)}

    def _images(self) -> Path:
        root = buckets.path(self.folder)
        return root / self.images if self.images else root
