"""Waterbirds on land and water, as published (arXiv 1911.08731).

fairkd-data --set=waterbirds --source=waterbird_complete95_forest2water2 --data_dir=DIR
{"name": "waterbirds", "data_dir": DIR, "size": 224}

The source is the folder with metadata.csv, or its .tar.gz; WILDS' is the same.
"""

import dataclasses
import io
from collections.abc import Iterator
from typing import ClassVar

from fairkd_jax.data import birds
from fairkd_jax.data.archives import Source, content
from fairkd_jax.data.birds import Birds
from fairkd_jax.data.dataset import DataSet
from fairkd_jax.data.prepared import Example, Original, Prepared
from fairkd_jax.data.rows import read_rows
from fairkd_jax.registry import UnknownName

COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename")
SPLITS = {"train": "0", "val": "1", "test": "2"}


def _read(source: Source, split: str) -> Iterator[tuple[str, Example]]:
    path = source.file("metadata.csv")
    images = source.files("*.jpg", parts=2)
    for line, row in read_rows(path, (), COLUMNS):
        place, name = f"{path}, line {line}", row["img_filename"]
        for column, values in (("y", "01"), ("place", "01"), ("split", "012")):
            if row[column] not in (*values,):
                raise UnknownName(row[column], f"{column} in {place}:", values)
        if row["split"] != SPLITS[split]:
            continue
        if name.count("/") != 1 or (row["y"] == "1") != birds.is_waterbird(name):
            raise ValueError(f"{place}: {name} is no {birds.BIRDS[int(row['y'])]}, as y says")
        if name not in images:
            raise ValueError(f"{place}: there is no image {name} below {source.path}")
        yield (
            place,
            {
                "image": io.BytesIO(content(images[name], place)),
                "file": name,
                "label": birds.BIRDS[int(row["y"])],
                "place": birds.PLACES[int(row["place"])],
                "place_file": row["place_filename"],
            },
        )


@dataclasses.dataclass(frozen=True)
class Waterbirds(Birds, Prepared, DataSet):
    """As published."""

    original: ClassVar[Original] = Original(
        name="waterbirds",
        version="1.0.0",
        features=birds.features,
        splits={"train": ("train",), "val": ("validation",), "test": ("test",)},
        read=_read,
        key="file",
        citation="arXiv:1911.08731",
        published={
            "train": birds.published(4_795, 3_498, 184, 56, 1_057),
            "val": birds.published(1_199, 467, 466, 133, 133),
            "test": birds.published(5_794, 2_255, 2_255, 642, 642),
        },
    )
