"""Handwritten digits in a colour that predicts the label in training and says nothing in the test.

After Colored MNIST (arXiv 1907.02893, section 5.1), on the 1,797 real 8x8 digits that scikit-learn
ships. Two or more classes are ranges of digits; class c is at home in colour c.
"""

import dataclasses
import functools

import numpy as np

from fairkd_jax.data.dataset import DataSet, Info, Split, make_split
from fairkd_jax.data.planting import COLOURS, moved

SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}  # of the digits; no digit is in two splits
COUNTS = {"train": (514, 27, 27, 510), "val": (134, 134, 135, 135), "test": (225, 225, 225, 225)}


@dataclasses.dataclass(frozen=True)
class ColoredDigits(DataSet):
    """Is a digit small (0 to 4) or large (5 to 9)? Small ones are mostly red, large ones green.

    train  each digit once; its colour is that of its label in a share `correlation` of the digits
    val    each digit in every colour, so colour says nothing
    test   each digit in every colour, with true labels

    As in Colored MNIST a share `label_noise` of the labels is wrong and colour follows the wrong
    label, which makes colour the better predictor; here that holds of train and val. Both shares
    are met exactly within every class, so counts by group do not depend on the seed.
    """

    classes: int = 2  # ranges of digits, and colours
    correlation: float = 0.95
    label_noise: float = 0.1
    image_size: int = 16  # a multiple of 8: pixels are repeated
    seed: int = 0  # of the data, not of training

    splits = tuple(SHARES)

    def __post_init__(self):
        if not 2 <= self.classes <= 10:
            raise ValueError(f"colored_digits: classes = {self.classes}, expected 2 to 10")
        if self.image_size < 8 or self.image_size % 8:
            raise ValueError(f"colored_digits: image_size = {self.image_size}, a multiple of 8")
        for name in ("correlation", "label_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"colored_digits: {name} = {getattr(self, name)}, expected 0 to 1")

    @property
    def info(self) -> Info:
        digits = [np.flatnonzero(self._label(np.arange(10)) == c) for c in range(self.classes)]
        return Info(
            label_names=tuple(f"{d[0]} to {d[-1]}" if len(d) > 1 else f"{d[0]}" for d in digits),
            attribute_names=tuple(COLOURS)[: self.classes],
            aligned=tuple(tuple(row) for row in np.eye(self.classes, dtype=bool).tolist()),
            licence="CC BY 4.0 (images); BSD-3-Clause (scikit-learn, which ships them)",
            source="Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI "
            "(test part, 1,797 images), from sklearn.datasets.load_digits; coloured here",
            expected_counts=COUNTS if self._standard() else {},
        )

    def load(self, split: str) -> Split:
        self.require(split)
        images, digits = _handwriting()
        rng = np.random.Generator(np.random.Philox(key=[self.seed, self.splits.index(split)]))
        rows = _digits_of(split, digits, self.seed)
        label = self._label(digits[rows])
        if split != "test":
            label = moved(label, self.label_noise, self.classes, rng)
        if split == "train":
            attribute = moved(label, 1 - self.correlation, self.classes, rng)
            identity = rows
        else:
            attribute = np.tile(np.arange(self.classes), len(rows))
            rows, label = np.repeat(rows, self.classes), np.repeat(label, self.classes)
            identity = rows * self.classes + attribute
        image = self._paint(images[rows], attribute)
        return make_split(self.info, label, attribute, id=identity, image=image, digit=digits[rows])

    def with_attribute(self, split: Split, attribute: np.ndarray) -> Split:
        ink = split.columns["image"].max(axis=-1)[:, :: self._times(), :: self._times()]
        grey = (ink * (16 / 255)).round()  # the strongest channel of a colour is all of the ink
        columns = split.columns
        return make_split(
            split.info,
            columns["label"],
            attribute,
            id=columns["id"],
            image=self._paint(grey, attribute),
            digit=columns["digit"],
        )

    def _times(self) -> int:
        return self.image_size // 8

    def _label(self, digit: np.ndarray) -> np.ndarray:
        return digit * self.classes // 10

    def _standard(self) -> bool:
        shares = (self.classes, self.correlation, self.label_noise)
        return shares == (2, 0.95, 0.1)

    def _paint(self, grey: np.ndarray, colour: np.ndarray) -> np.ndarray:
        """Ink of strength 0..16 as uint8 [N, Y, X, 3] in the colour, on black."""
        grey = grey.repeat(self._times(), axis=1).repeat(self._times(), axis=2)
        palette = np.array(list(COLOURS.values())) * 255 / 16
        return (grey[..., None] * palette[colour][:, None, None, :]).round().astype(np.uint8)


@functools.cache
def _handwriting() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # half a second, for this set alone

    digits = load_digits()
    return digits.images, digits.target


def _digits_of(split: str, digits: np.ndarray, seed: int) -> np.ndarray:
    """Rows of the digits that belong to a split, the same share of every digit."""
    order = np.argsort(np.random.Generator(np.random.Philox(key=[seed, 99])).random(len(digits)))
    start = sum(list(SHARES.values())[: list(SHARES).index(split)])
    rows = []
    for digit in range(10):
        of_digit = order[digits[order] == digit]
        first, last = round(start * len(of_digit)), round((start + SHARES[split]) * len(of_digit))
        rows.append(of_digit[first:last])
    return np.sort(np.concatenate(rows))
