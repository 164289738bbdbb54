"""Waterbirds made anew from CUB-200-2011, its segmentations and Places (arXiv 1911.08731).

fairkd-data --set=waterbirds_made --source=FOLDER --data_dir=DIR
{"name": "waterbirds_made", "data_dir": DIR, "size": 224}

FOLDER holds CUB_200_2011 and segmentations, unpacked or as .tgz, and of Places365 (large or small)
the folders bamboo_forest, forest/broadleaf, ocean and lake/natural. The authors' script sets no
seed, so who is in validation and which place is behind a bird are drawn anew here, always alike.
"""

import dataclasses
import io
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
from PIL import Image

from fairkd_jax.data import birds
from fairkd_jax.data.archives import AnyPath, Source, content
from fairkd_jax.data.birds import Birds
from fairkd_jax.data.dataset import DataSet
from fairkd_jax.data.prepared import Example, Original, Prepared

PLACES = (("bamboo_forest", "forest/broadleaf"), ("ocean", "lake/natural"))  # land, water
CORRELATION, VAL, SEED = 0.95, 0.2, 0


def _read(source: Source, split: str) -> Iterator[tuple[str, Example]]:
    listed = source.file("CUB_200_2011/images.txt", "images.txt")
    names = _listed(listed)
    training = _listed(source.file("train_test_split.txt"))
    if missing := names.keys() ^ training.keys():
        raise ValueError(f"{listed}: image {min(missing)} is not in train_test_split.txt, or only")
    files = [*names.values()]
    label = [birds.is_waterbird(file) for file in files]
    which, place = birds.drawn(label, [training[n] == "1" for n in names], CORRELATION, VAL, SEED)
    backgrounds = _backgrounds(source, place)
    images, masks = (
        source.files(pattern, parts=2) for pattern in ("images/*.jpg", "segmentations/*.png")
    )
    for row in np.flatnonzero(which == ("train", "val", "test").index(split)):
        file, where = files[row], f"{listed}, line {row + 1}"
        mask = f"{file.removesuffix('.jpg')}.png"
        for name, there in ((file, images), (mask, masks)):
            if name not in there:
                raise ValueError(f"{where}: there is no {name} below {source.path}")
        behind = backgrounds[row]
        made = birds.on_background(*(_open(p, where) for p in (images[file], masks[mask], behind)))
        yield (
            where,
            {
                "image": made,
                "file": file,
                "label": birds.BIRDS[label[row]],
                "place": birds.PLACES[place[row]],
                "place_file": behind.name,
            },
        )


def _listed(path: AnyPath) -> Mapping[str, str]:
    """Lines of a number and a value."""
    found = {}
    for line, text in enumerate(content(path).decode().splitlines(), 1):
        number, _, value = text.partition(" ")
        if not value or number in found:
            raise ValueError(
                f"{path}, line {line}: {text!r}, expected a number of its own, a value"
            )
        found[number] = value
    return found


def _backgrounds(source: Source, place: np.ndarray) -> list[AnyPath]:
    """A place of its own for each bird, drawn without putting back."""
    rng = np.random.Generator(np.random.Philox(key=[SEED, 1]))
    chosen: list[AnyPath | None] = [None] * len(place)
    for number, categories in enumerate(PLACES):
        there = [
            path for name in categories for path in source.files(f"{name[0]}/{name}/*.jpg").values()
        ]
        rows = np.flatnonzero(place == number)
        if len(there) < len(rows):
            raise ValueError(
                f"{source.path} holds {len(there)} images of {', '.join(categories)}; "
                f"{len(rows)} birds on {birds.PLACES[number]} need one each"
            )
        for row, which in zip(rows, rng.permutation(len(there))):
            chosen[row] = there[which]
    return chosen


def _open(path: AnyPath, place: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content(path, place)))
        image.load()
    except OSError as error:
        raise ValueError(f"{place}: {path} is no whole image: {error}") from error
    return image


@dataclasses.dataclass(frozen=True)
class WaterbirdsMade(Birds, Prepared, DataSet):
    """Made from birds and places."""

    original: ClassVar[Original] = Original(
        name="waterbirds_made",
        version="1.0.0",
        features=birds.features,
        splits={"train": ("train",), "val": ("validation",), "test": ("test",)},
        read=_read,
        key="file",
        citation="arXiv:1911.08731",
        published={
            "train": {"examples": 4_795},
            "val": {"examples": 1_199},
            "test": birds.published(5_794, 2_255, 2_255, 642, 642),
        },
    )
