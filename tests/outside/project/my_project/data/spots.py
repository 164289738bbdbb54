"""A data set: is the spot left or right? In training, left ones are mostly red."""

import dataclasses
from typing import ClassVar

import numpy as np

from fairkd_jax.data.dataset import DataSet, Info, Split, make_split


@dataclasses.dataclass(frozen=True)
class Spots(DataSet):
    """Images of 4 x 4 pixels, drawn anew."""

    train: int = 96  # examples
    biased: float = 0.9  # share of training examples whose colour goes with their side

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")

    @property
    def info(self) -> Info:
        """Sides and colours."""
        return Info(
            label_names=("left", "right"),
            attribute_names=("red", "green"),
            aligned=((True, False), (False, True)),
            licence="CC0",
            source="drawn here",
        )

    def load(self, split: str) -> Split:
        """One split."""
        self.require(split)
        rng = np.random.default_rng(self.splits.index(split))
        rows = self.train if split == "train" else 32
        label = np.arange(rows) % 2
        share = self.biased if split == "train" else 0.5
        attribute = np.where(np.arange(rows) // 2 < share * rows / 2, label, 1 - label)
        image = rng.integers(0, 60, (rows, 4, 4, 3)).astype(np.uint8)
        image[np.arange(rows), 1, 2 * label, attribute] = 250
        return make_split(self.info, label, attribute, image=image)
