"""Images as normalised float32 pixels."""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from fairkd_jax import hub
from fairkd_jax.data.dataset import Encoder, Split, View, column, draws
from fairkd_jax.recipe import later

PREPROCESSOR = "preprocessor_config.json"  # of transformers
HALF = [0.5] * 3  # mean and deviation of the processors of ViT, DeiT and ConvNext (for ResNet)
HALVES = r"(ViT|DeiT|ConvNext|ConvNeXT)(ImageProcessor|FeatureExtractor).*"
SAMPLE = 5000  # images whose mean and deviation are measured
OTHERWISE = ("do_flip_channel_order", "rescale_offset", "offset")  # done by some, not here


@dataclasses.dataclass(frozen=True)
class Image(View):
    """Pixels `(x / 255 - mean) / std`, channels last.

    One number serves all channels, otherwise one a channel; none: measured on the training split,
    on 5,000 images spread evenly over it where there are more.
    In training an image may be moved and mirrored at random, as published recipes for CIFAR do.
    """

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    crop: int = later(0)  # black pixels added on each side, then a window of the old size is cut
    flip: bool = later(False)  # left and right change places in half of the images

    @property
    def changes_inputs(self) -> bool:
        """Whether anything is drawn."""
        return self.crop > 0 or self.flip

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
        if self.crop < 0:
            raise ValueError(f"image view: crop = {self.crop}, expected pixels, from 0 on")
        mean, std = self.mean, self.std
        if not (mean and std):
            pixels = images[_sample(len(images))].reshape(-1, channels)
            mean = mean or (pixels.mean(0) / 255).round(6)
            std = std or np.maximum(pixels.std(0) / 255, 1e-3).round(6)
        mean, std = np.resize(mean, channels), np.resize(std, channels)
        return ImageEncoder(images.shape[1:], mean, std, self.crop, self.flip)

    def options_for(self, folder: pathlib.Path, encoder: "ImageEncoder") -> dict[str, Any] | None:
        found = _published(folder)
        if found is None:
            return None
        ours = {"mean": encoder.mean, "std": encoder.std}
        if all(
            len(theirs) in (1, len(ours[name])) and np.allclose(theirs, ours[name], atol=1e-4)
            for name, theirs in found.items()
        ):
            return {}
        return {name: tuple(values.round(6).tolist()) for name, values in found.items()}


def _sample(rows: int) -> np.ndarray:
    """At most SAMPLE row numbers, evenly spaced."""
    return np.arange(rows) if rows <= SAMPLE else np.arange(SAMPLE) * rows // SAMPLE


def _published(folder: pathlib.Path) -> dict[str, np.ndarray] | None:
    """Mean and deviation, of pixels between 0 and 1, that a folder's weights read; None: unknown.

    From transformers' preprocessor_config.json or timm's config.json.
    """
    file = folder / PREPROCESSOR
    said = hub.read_json(file) if file.is_file() else {}
    if not said and (file := folder / "config.json").is_file():
        config = hub.read_json(file)
        said = config.get("pretrained_cfg") or config
        said = {f"image_{k}": said[k] for k in ("mean", "std") if k in said}
    if done := [key for key in OTHERWISE if said.get(key)]:
        raise ValueError(f"{file} says {done[0]} = {said[done[0]]!r}: the image view does no such")
    usual = HALF if re.fullmatch(HALVES, _processor(said)) else None
    shift, scale = (said.get(f"image_{name}", usual) for name in ("mean", "std"))
    if not said.get("do_normalize", True):
        shift, scale = [0.0], [1.0]
    if shift is None or scale is None:
        return None
    # Theirs: (byte * rescale - shift) / scale. Ours: (byte / 255 - mean) / std.
    rescale = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1.0
    return {k: np.atleast_1d(v) / (255 * rescale) for k, v in (("mean", shift), ("std", scale))}


def _processor(said: Mapping[str, Any]) -> str:
    return str(said.get("image_processor_type") or said.get("feature_extractor_type") or "")


class ImageEncoder(Encoder):
    """Scales bytes by constants that `Image.fit` found."""

    def __init__(
        self,
        shape: tuple[int, ...],
        mean: np.ndarray,
        std: np.ndarray,
        crop: int = 0,
        flip: bool = False,
    ):
        self.shape, self.mean, self.std = shape, np.asarray(mean), np.asarray(std)
        self.crop, self.flip = crop, flip
        self.scale = (1 / (255 * std)).astype(np.float32)
        self.shift = (-mean / std).astype(np.float32)
        height, width, channels = shape
        identity = repr((shape, self.mean.tolist(), self.std.tolist()))
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

    def augment(
        self, arrays: dict[str, np.ndarray], ids: np.ndarray, seed: int, step: int
    ) -> dict[str, np.ndarray]:
        """Moves each image by up to `crop` pixels a way, then mirrors it or not."""
        if not (self.crop or self.flip):
            return arrays
        (height, width, channels), crop = self.shape, self.crop
        padded = np.empty((len(ids), height + 2 * crop, width + 2 * crop, channels), np.float32)
        padded[:] = self.shift  # black
        padded[:, crop : crop + height, crop : crop + width] = arrays["pixels"]

        def cut(image: np.ndarray, drawn: np.ndarray) -> np.ndarray:
            y, x = (drawn[:2] * (2 * crop + 1)).astype(int)
            window = image[y : y + height, x : x + width]
            return window[:, ::-1] if self.flip and drawn[2] < 0.5 else window

        return {"pixels": np.stack([*map(cut, padded, draws(seed, step, ids, 3))])}

    def save(self, folder: pathlib.Path) -> None:
        """Writes preprocessor_config.json, as image processors of transformers read it."""
        height, width, _ = self.shape
        config = {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": height, "width": width},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": self.mean.tolist(),
            "image_std": self.std.tolist(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PREPROCESSOR).write_text(json.dumps(config, indent=2) + "\n")
