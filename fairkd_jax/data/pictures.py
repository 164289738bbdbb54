"""Images that stay files on the disk, as uint8 pixels of one shape where rows are asked for.

Files are decoded by threads (Pillow lets others run meanwhile), each row by itself: what is read
does not depend on how many threads there are. Only the rows asked for are in memory.
"""

import concurrent.futures
import functools
import io
import os
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from fairkd_jax.data.dataset import Column
from fairkd_jax.data.prepared import Records
from fairkd_jax.registry import UnknownName

THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
FILTER = Image.Resampling.BILINEAR  # of Pillow, which smooths where it makes smaller
MODES = {1: "L", 3: "RGB"}  # by channels


def _square(image: Image.Image, size: int) -> Image.Image:
    """The largest square in the middle, resized: CelebA in arXiv 1911.08731."""
    left, top = (image.width - (side := min(image.size))) // 2, (image.height - side) // 2
    return image.resize((size, size), FILTER, (left, top, left + side, top + side))


def _whole(image: Image.Image, size: int) -> Image.Image:
    """All of it, whatever its aspect, resized to a square."""
    return image.resize((size, size), FILTER)


def _margin(image: Image.Image, size: int) -> Image.Image:
    """All of it resized to a square of 256 / 224 times the size; its middle. Waterbirds there."""
    large = int(size * 256 / 224)
    edge = round((large - size) / 2)
    return image.resize((large, large), FILTER).crop((edge, edge, edge + size, edge + size))


FRAMES: Mapping[str, Callable[[Image.Image, int], Image.Image]] = {
    "square": _square,
    "whole": _whole,
    "margin": _margin,
}


def check(name: str, size: int, frame: str) -> None:
    """Raises ValueError or UnknownName for options of a set that cannot be."""
    if size < 1:
        raise ValueError(f"{name}: size = {size}, expected pixels a side, from 1 on")
    if frame not in FRAMES:
        raise UnknownName(frame, f"frame of {name}:", FRAMES)


def decoded(data: bytes, size: int, frame: str, channels: int = 3) -> np.ndarray:
    """The pixels of one file, uint8 [size, size, channels]."""
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert(MODES[channels])
    if image.size != (size, size):
        image = FRAMES[frame](image, size)
    return np.asarray(image).reshape(size, size, channels)


class Pictures(Column):
    """Images of a prepared split, uint8 [N, size, size, channels].

    `rows`: which records, in the order of the split; none: all.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        records: Records,
        size: int,
        frame: str,
        *,
        channels: int = 3,
        rows: np.ndarray | None = None,
        threads: int = THREADS,
    ):
        self._records, self._threads = records, threads
        self._decoded = functools.partial(decoded, size=size, frame=frame, channels=channels)
        self._rows = np.arange(len(records)) if rows is None else rows
        self.shape = (len(self._rows), size, size, channels)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        wanted = self._rows[rows]
        found = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        blocks = np.array_split(np.arange(len(wanted)), min(len(wanted), self._threads))

        def fill(block: np.ndarray) -> None:
            for place, (data,) in zip(block, self._records.rows(wanted[block], "image")):
                found[place] = self._decoded(data)

        if len(blocks) < 2:
            for block in blocks:
                fill(block)
        else:
            list(_pool(self._threads).map(fill, blocks))
        return found


@functools.lru_cache(maxsize=1)
def _pool(threads: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="pictures")


class Changed(Column):
    """Images, each changed by itself: `change(pixels [n, Y, X, K], rows)` gives as many."""

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        images: Column | np.ndarray,
        change: Callable[[np.ndarray, np.ndarray], np.ndarray],
        shape: tuple[int, ...] | None = None,
    ):
        self._images, self._change = images, change
        self.shape = shape or images.shape

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self._change(self._images[rows], np.arange(len(self))[rows])
