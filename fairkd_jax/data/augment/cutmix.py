"""Images with a box of another training image in them, labels by area (arXiv 1905.04899).

The box has the image's proportions and at most the share `1 - w` of its area, `w ~ Beta(alpha,
alpha)` folded to [1/2, 1], and lies anywhere; cut at the edges, it counts for what is left of it.
So an example's label and group are those of the larger part.
"""

import dataclasses

import numpy as np

from fairkd_jax.data.augment.mixup import own_share
from fairkd_jax.data.augmentation import Augmentation, Columns, Numbers
from fairkd_jax.data.dataset import Split


@dataclasses.dataclass(frozen=True)
class CutMix(Augmentation):
    """One box an image."""

    needs = ("image",)
    changes_inputs = True
    mixes = True
    partners = True

    rate: float = 0.5
    alpha: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not self.alpha > 0:
            raise ValueError(f"cutmix: alpha = {self.alpha}, expected a number above 0")

    def change(self, columns: Columns, train: Split, draw: Numbers) -> Columns:
        rows = self.partners_of(train, draw)
        area, y, x = draw(5)[:, 2:].T
        own, other = columns["image"], train.columns["image"][rows]
        side = np.sqrt(1 - own_share(area, self.alpha))
        tall, wide = (_within(*s) for s in ((y, side, own.shape[1]), (x, side, own.shape[2])))
        inside = tall[:, :, None] & wide[:, None, :]
        return {
            "image": np.where(inside[..., None], other, own),
            "partner_label": train.columns["label"][rows],
            "label_weight": (1 - inside.mean(axis=(1, 2))).astype(np.float32),
        }


def _within(middle: np.ndarray, side: np.ndarray, size: int) -> np.ndarray:
    """Which of `size` pixels lie within `side * size` around the middle, bool [n, size]."""
    half, centre = np.floor(side * size)[:, None] / 2, np.floor(middle * size)[:, None]
    pixels = np.arange(size)
    return (pixels >= centre - np.floor(half)) & (pixels < centre + np.ceil(half))
