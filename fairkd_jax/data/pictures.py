"""Images that stay files on the disk, as uint8 pixels of one shape where rows are asked for.

Files are decoded by threads (Pillow lets others run meanwhile), each row by itself: what is read
does not depend on how many threads there are. Only the rows asked for are in memory.
"""

import concurrent.futures
import functools
import io
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image

from fairkd_jax.data.dataset import Column
from fairkd_jax.data.prepared import Records
from fairkd_jax.registry import UnknownName

THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
FILTER = Image.Resampling.BILINEAR  # of Pillow, which smooths where it makes smaller


def _square(image: Image.Image, size: int) -> Image.Image:
    """The largest square in the middle, resized: CelebA in arXiv 1911.08731."""
    side = min(image.size)
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side)).resize((size, size), FILTER)


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


def decoded(data: bytes, size: int, frame: str) -> np.ndarray:
    """The pixels of one file, uint8 [size, size, 3]."""
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    if image.size != (size, size):
        image = FRAMES[frame](image, size)
    return np.asarray(image)


def as_png(pixels: np.ndarray) -> io.BytesIO:
    """A file of uint8 [Y, X] or [Y, X, 3], without loss."""
    written = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(written, "PNG")
    return io.BytesIO(written.getvalue())


class Pictures(Column):
    """Images whose files are read when rows are asked for, uint8 [N, size, size, 3].

    `read` gives of each row, by its number, where its file is and what it holds. Indexing raises
    ValueError, naming the file, for one that does not decode whole.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        read: Callable[[np.ndarray], Sequence[tuple[str, bytes]]],
        count: int,
        size: int,
        frame: str,
        *,
        threads: int = THREADS,
    ):
        self._read, self._threads = read, threads
        self._decoded = functools.partial(decoded, size=size, frame=frame)
        self.shape = (count, size, size, 3)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        wanted = np.arange(len(self))[rows]
        found = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        blocks = np.array_split(np.arange(len(wanted)), min(len(wanted), self._threads) or 1)

        def fill(block: np.ndarray) -> None:
            for row, (place, data) in zip(block, self._read(wanted[block])):
                try:
                    found[row] = self._decoded(data)
                except Exception as error:
                    raise ValueError(f"{place} is no whole image: {error}") from error

        if len(blocks) < 2:
            fill(blocks[0])
        else:
            list(_pool(self._threads).map(fill, blocks))
        return found


def of_records(records: Records, size: int, frame: str, rows: np.ndarray | None = None) -> Pictures:
    """The feature "image" of a prepared split; of some of its rows, in their order, or of all."""
    rows = np.arange(len(records)) if rows is None else rows

    def read(wanted: np.ndarray) -> list[tuple[str, bytes]]:
        found = records.rows(rows[wanted], "image")
        return [(f"{records.folder}, record {r}", d) for r, (d,) in zip(rows[wanted], found)]

    return Pictures(read, len(rows), size, frame)


@functools.lru_cache(maxsize=1)
def _pool(threads: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="pictures")


class Changed(Column):
    """Images, each changed by itself: `change(pixels [n, Y, X, K], rows)` gives as many.

    `rows`: which image each row of the column is made of; none: one each.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        images: Column | np.ndarray,
        change: Callable[[np.ndarray, np.ndarray], np.ndarray],
        rows: np.ndarray | None = None,
    ):
        self._images, self._change = images, change
        self._rows = np.arange(len(images)) if rows is None else rows
        self.shape = (len(self._rows), *images.shape[1:])

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self._change(self._images[self._rows[rows]], np.arange(len(self))[rows])
