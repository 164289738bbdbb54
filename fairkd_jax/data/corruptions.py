"""Common corruptions of small images at severities 1 to 5 (arXiv 1903.12261).

Those of CIFAR-10-C that NumPy, SciPy and Pillow define exactly, with its constants. What is drawn
comes from the generator given, so an image is corrupted alike wherever it is met.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

Pixels = Float[np.ndarray, "Y X K"]  # from 0 to 1
SEVERITIES = (1, 2, 3, 4, 5)


def corrupted(
    image: UInt8[np.ndarray, "Y X K"], kind: str, severity: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "Y X K"]:
    """One image, corrupted; of `KINDS`."""
    changed = KINDS[kind](image / 255, severity - 1, rng)
    return (np.clip(changed, 0, 1) * 255).astype(np.uint8)


def _gaussian_noise(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    return x + rng.normal(scale=(0.04, 0.06, 0.08, 0.09, 0.10)[severity], size=x.shape)


def _shot_noise(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    photons = (500, 250, 100, 75, 50)[severity]
    return rng.poisson(x * photons) / photons


def _impulse_noise(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Salt and pepper, as often the one as the other."""
    hit = rng.random(x.shape) < (0.01, 0.02, 0.03, 0.05, 0.07)[severity]
    return np.where(hit, rng.random(x.shape) < 0.5, x)


def _speckle_noise(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    return x + x * rng.normal(scale=(0.06, 0.1, 0.12, 0.16, 0.2)[severity], size=x.shape)


def _gaussian_blur(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    sigma = (0.4, 0.6, 0.7, 0.8, 1)[severity]
    return ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest")


def _zoom_blur(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """The mean of the image and of its middle, ever larger."""
    largest = (1.06, 1.11, 1.16, 1.21, 1.26)[severity]
    factors = np.arange(1, largest, 0.01)
    return (x + sum(_zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


def _zoomed(x: Pixels, factor: float) -> Pixels:
    side = x.shape[0]
    kept = int(np.ceil(side / factor))
    top = (side - kept) // 2
    large = ndimage.zoom(x[top : top + kept, top : top + kept], (factor, factor, 1), order=1)
    edge = (large.shape[0] - side) // 2
    return large[edge : edge + side, edge : edge + side]


def _contrast(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    mean = x.mean(axis=(0, 1), keepdims=True)
    return (x - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[severity] + mean


def _brightness(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    return _in_hsv(x, 2, 1, (0.05, 0.1, 0.15, 0.2, 0.3)[severity])


def _saturate(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    return _in_hsv(x, 1, *((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity])


def _in_hsv(x: Pixels, channel: int, factor: float | int, more: float | int) -> Pixels:
    """Multiplies and adds to a channel of hue, saturation and value."""
    from matplotlib.colors import hsv_to_rgb, rgb_to_hsv

    hsv = rgb_to_hsv(x)
    hsv[..., channel] = np.clip(hsv[..., channel] * factor + more, 0, 1)
    return hsv_to_rgb(hsv)


def _pixelate(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    image = _as_image(x)
    few = [int(side * (0.95, 0.9, 0.85, 0.75, 0.65)[severity]) for side in image.size]
    box = Image.Resampling.BOX
    return np.asarray(image.resize(few, box).resize(image.size, box)) / 255


def _jpeg_compression(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    written = io.BytesIO()
    _as_image(x).save(written, "JPEG", quality=(80, 65, 58, 50, 40)[severity])
    return np.asarray(Image.open(written)) / 255


def _as_image(x: Pixels) -> Image.Image:
    return Image.fromarray((x * 255).round().astype(np.uint8))


KINDS: Mapping[str, Callable[[Pixels, int, np.random.Generator], Pixels]] = {
    "gaussian_noise": _gaussian_noise,
    "contrast": _contrast,
    "gaussian_blur": _gaussian_blur,
    "brightness": _brightness,
    "jpeg_compression": _jpeg_compression,
    "pixelate": _pixelate,
    "saturate": _saturate,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "zoom_blur": _zoom_blur,
    "speckle_noise": _speckle_noise,
}
