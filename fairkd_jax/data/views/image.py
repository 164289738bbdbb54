"""Images as normalised float32 pixels."""

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np

from fairkd_jax.data.dataset import Encoder, Split, View, column


@dataclasses.dataclass(frozen=True)
class Image(View):
    """Pixels `(x / 255 - mean) / std`, channels last.

    One number serves all channels, otherwise one a channel; none: measured on the training split.
    """

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def fit(self, train: Split) -> "ImageEncoder":
        images = column(train.columns, "image")
        channels = images.shape[-1]
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (0, 1, channels):
                raise ValueError(
                    f"image view: {name} = {getattr(self, name)} for images of {channels} channels"
                )
        if min(self.std, default=1.0) <= 0:
            raise ValueError(f"image view: std = {self.std}, expected positive numbers")
        pixels = images.reshape(-1, channels)
        mean = self.mean or (pixels.mean(0) / 255).round(6)
        std = self.std or np.maximum(pixels.std(0) / 255, 1e-3).round(6)
        return ImageEncoder(images.shape[1:], np.resize(mean, channels), np.resize(std, channels))


class ImageEncoder(Encoder):
    """Scales bytes by constants that `Image.fit` found."""

    def __init__(self, shape: tuple[int, ...], mean: np.ndarray, std: np.ndarray):
        self.shape = shape
        self.scale = (1 / (255 * std)).astype(np.float32)
        self.shift = (-mean / std).astype(np.float32)
        height, width, channels = shape
        identity = repr((shape, np.asarray(mean).tolist(), np.asarray(std).tolist()))
        self.facts = {
            "height": height,
            "width": width,
            "channels": channels,
            "identity": hashlib.sha256(identity.encode()).hexdigest()[:16],
        }

    def encode(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{"pixels": float32 [n, Y, X, K]}. Raises ValueError for images of another shape."""
        images = column(columns, "image")
        if images.shape[1:] != self.shape:
            raise ValueError(f"images of shape {images.shape[1:]}: the view is for {self.shape}")
        return {"pixels": images * self.scale + self.shift}
