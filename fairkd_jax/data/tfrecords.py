"""Records of .tfrecord files by number, without TensorFlow: what TFDS prepares unless told else.

A file is one record after another: its length (8 bytes, little-endian), a checksum of that (4), the
record, a checksum of it (4). Where each begins is found once, from length to length.
"""

import mmap
import pathlib
import struct
from collections.abc import Iterable, Sequence

import numpy as np

BEFORE, AFTER = 12, 4  # bytes around a record


class TfRecords:
    """The records of some files, in their order."""

    def __init__(self, paths: Iterable[pathlib.Path]):
        """Raises ValueError, naming the file, for one that does not end with a record."""
        self._files, starts, sizes, which = [], [], [], []
        for number, path in enumerate(paths):
            with path.open("rb") as file:
                empty = not path.stat().st_size
                mapped = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            begin, length = _records(path, mapped)
            self._files.append(mapped)
            starts.append(begin)
            sizes.append(length)
            which.append(np.full(len(begin), number))
        self._starts, self._sizes, self._which = map(np.concatenate, (starts, sizes, which))

    def __len__(self) -> int:
        return len(self._starts)

    def __getitems__(self, rows: Sequence[int]) -> list[bytes]:
        """Records by their numbers."""
        places = zip(self._which[rows], self._starts[rows], self._sizes[rows])
        return [self._files[k][start : start + size] for k, start, size in places]


def _records(path: pathlib.Path, mapped: bytes | mmap.mmap) -> tuple[np.ndarray, np.ndarray]:
    """Where records begin, and how long they are, int64 [N] both."""
    starts, sizes, place = [], [], 0
    while place + BEFORE <= len(mapped):
        (size,) = struct.unpack_from("<Q", mapped, place)
        starts.append(place + BEFORE)
        sizes.append(size)
        place += BEFORE + size + AFTER
    if place != len(mapped):
        raise ValueError(f"{path} is cut, or no .tfrecord: record {len(starts)} ends beyond it")
    return np.array(starts, np.int64), np.array(sizes, np.int64)
