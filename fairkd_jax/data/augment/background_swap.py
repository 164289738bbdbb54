"""Images on the background of another example, by masks of what stands in front.

For sets whose attribute is the background (Waterbirds, arXiv 1911.08731) and that have a raw column
"mask" [N, Y, X], above 0 in front. What stood in front of the other's background is filled with its
mean colour.
"""

import dataclasses

import numpy as np

from fairkd_jax.data.augmentation import Augmentation, Columns, Numbers
from fairkd_jax.data.dataset import Split


@dataclasses.dataclass(frozen=True)
class BackgroundSwap(Augmentation):
    """The label stays that of what stands in front, the attribute becomes the background's."""

    needs = ("image", "mask")
    changes_inputs = True
    partners = True
    sees_attributes = True

    rate: float = 0.5

    def change(self, columns: Columns, train: Split, draw: Numbers) -> Columns:
        rows = self.partners_of(train, draw)
        image, front = columns["image"], (columns["mask"] > 0)[..., None]
        behind = train.columns["image"][rows].astype(np.float64)
        there = (train.columns["mask"][rows] > 0)[..., None]
        seen = np.maximum(np.sum(~there, axis=(1, 2), keepdims=True), 1)
        mean = np.sum(behind * ~there, axis=(1, 2), keepdims=True) / seen
        behind = np.where(there, mean, behind).round().astype(np.uint8)
        return {
            "image": np.where(front, image, behind),
            "attribute": train.columns["attribute"][rows],
        }
