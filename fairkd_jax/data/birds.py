"""Waterbirds (arXiv 1911.08731): birds of CUB-200-2011 on backgrounds of Places.

What the published folder and one that is made anew share; and how the authors' script makes it.
"""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from fairkd_jax import registry
from fairkd_jax.data import pictures
from fairkd_jax.data.dataset import Info, Split, make_split

BIRDS, PLACES = ("landbird", "waterbird"), ("land", "water")
WATERBIRDS = (
    "albatross", "auklet", "cormorant", "frigatebird", "fulmar", "gull", "jaeger", "kittiwake",
    "pelican", "puffin", "tern",  # seabirds
    "gadwall", "grebe", "mallard", "merganser", "guillemot", "pacific_loon",  # waterfowl
)  # fmt: skip
INFO = Info(
    label_names=BIRDS,
    attribute_names=PLACES,
    aligned=((True, False), (False, True)),
    licence="non-commercial research only (CUB-200-2011 and Places)",
    source="Waterbirds, arXiv 1911.08731",
)


def features(tfds: Any) -> dict[str, Any]:
    """Features of an example."""
    return {
        "image": tfds.Image(),
        "file": tfds.Text(),
        "label": tfds.ClassLabel(names=BIRDS),
        "place": tfds.ClassLabel(names=PLACES),
        "place_file": tfds.Text(),
    }


def published(examples: int, *groups: int) -> dict[str, int]:
    """Counts of a split, and of birds and places within it."""
    names = [f"label={bird}, place={place}" for bird in BIRDS for place in PLACES]
    return {"examples": examples, **dict(zip(names, groups))}


@dataclasses.dataclass(frozen=True)
class Birds:
    """What the two sets share: is it a waterbird or a landbird, wherever it is?

    Images are squeezed into a square of 256 / 224 the size and their middle is cut, as in the
    paper; `pictures.FRAMES` has other ways.
    """

    size: int = 224
    frame: str = "margin"

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    info: ClassVar[Info] = INFO

    def __post_init__(self):
        pictures.check(registry.name_of(type(self)), self.size, self.frame)

    def load(self, split: str) -> Split:
        records = self.records(split)
        read = records.columns("label", "place")
        label, place = (
            np.array([names.index(name) for name in records.names(feature)])[read[feature]]
            for feature, names in (("label", BIRDS), ("place", PLACES))
        )
        image = pictures.of_records(records, self.size, self.frame)
        return make_split(INFO, label, place, image=image)


def is_waterbird(file: str) -> bool:
    """Of a file of CUB, "001.Black_footed_Albatross/NAME.jpg", by its species."""
    species = file.split("/")[-2].partition(".")[2].lower()
    return any(name in species for name in WATERBIRDS)


def drawn(
    waterbird: Sequence[bool], training: Sequence[bool], correlation: float, val: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits (0 train, 1 val, 2 test) and places (0 land, 1 water) of birds, int64 [N] each.

    A share `val` of the training birds is for validation. In training a share `correlation` of
    either kind is on its own ground, in validation and test half of it is.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    label, split = np.asarray(waterbird, int), np.where(training, 0, 2)
    train = np.flatnonzero(split == 0)
    split[rng.choice(train, round(val * len(train)), replace=False)] = 1
    place = np.zeros_like(label)
    for part in range(3):
        for bird in range(2):
            rows = np.flatnonzero((split == part) & (label == bird))
            share = (1 - correlation, correlation)[bird] if part == 0 else 0.5
            place[rng.choice(rows, round(share * len(rows)), replace=False)] = 1
    return split, place


def on_background(bird: Image.Image, mask: Image.Image, place: Image.Image) -> io.BytesIO:
    """A JPEG of the bird, where the mask is white, before the place."""
    bird, mask, place = (image.convert("RGB") for image in (bird, mask, place))
    inside: Float[np.ndarray, "Y X 3"] = np.asarray(mask) / 255
    front = np.around(np.asarray(bird) * inside)
    behind = np.around(np.asarray(_covering(place, bird.size)) * (1 - inside))
    # The script adds bytes, in which a sum of 256 becomes 0 where the mask is neither black nor
    # white.
    both: UInt8[np.ndarray, "Y X 3"] = np.minimum(front + behind, 255).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(both).save(written, "JPEG")
    return io.BytesIO(written.getvalue())


def _covering(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of an image, of another's shape: made larger first where it is smaller."""
    width, height = size
    if image.width < width or image.height < height:
        larger = width, int(width / image.width * image.height)
        if larger[1] < height:
            larger = int(height / image.height * image.width), height
        image = image.resize(larger, Image.Resampling.LANCZOS)
    aspect = width / height
    if image.width / image.height > aspect:
        edge = (image.width - int(aspect * image.height)) // 2
        box = (edge, 0, image.width - edge, image.height)
    else:
        edge = (image.height - int(image.width / aspect)) // 2
        box = (0, edge, image.width, image.height - edge)
    return image.crop(box).resize(size, Image.Resampling.LANCZOS)
