"""Images whose brightness, contrast and saturation change by chance (as in arXiv 1312.5402).

Each factor is even in [1 - strength, 1 + strength]; applied in this order and cut to bytes.
"""

import dataclasses

import numpy as np

from fairkd_jax.data.augmentation import Augmentation, Columns, Numbers
from fairkd_jax.data.dataset import Split

GREY = np.array([0.299, 0.587, 0.114])  # of red, green, blue (ITU-R BT.601)


@dataclasses.dataclass(frozen=True)
class ColourJitter(Augmentation):
    """Saturation needs three channels, and is left alone in images of another number."""

    needs = ("image",)
    changes_inputs = True

    rate: float = 1.0
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4

    def __post_init__(self):
        super().__post_init__()
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"colour_jitter: {name} = {getattr(self, name)}, expected 0 to 1")

    def change(self, columns: Columns, train: Split, draw: Numbers) -> Columns:
        image = columns["image"].astype(np.float64)
        strengths = np.array([self.brightness, self.contrast, self.saturation])
        factors = 1 + (2 * draw(3) - 1) * strengths
        bright, contrast, saturation = factors.T[:, :, None, None, None]
        image = np.clip(image * bright, 0, 255)
        mean = image.mean(axis=(1, 2, 3), keepdims=True)
        image = np.clip(mean + (image - mean) * contrast, 0, 255)
        if image.shape[-1] == len(GREY):
            grey = (image * GREY).sum(axis=-1, keepdims=True)
            image = np.clip(grey + (image - grey) * saturation, 0, 255)
        return {"image": image.round().astype(np.uint8)}
