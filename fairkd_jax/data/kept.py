"""What is made once of data and read by every launch: facts and arrays, in the user's cache.

An entry is a folder `kept/<kind>/<digest of its key>/` of `buckets.cache()`: an array a file, as
bytes that are mapped into memory, and `about.json` with the facts and a digest of each file. It is
made in a folder of its own and renamed when whole, so whoever makes it first is read by all; one
that does not hold what was written is made again. Any of it may be deleted at any time.
"""

import atexit
import contextlib
import dataclasses
import hashlib
import json
import pathlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

from fairkd_jax import buckets, files

FORMAT = 1  # of entries: raised when what is written under a key changes
ABOUT = "about.json"
LEFT = 24 * 3600.0  # seconds after which a folder that nobody finished is removed
TRIES = 3  # where others remove entries meanwhile


@dataclasses.dataclass(frozen=True)
class Kept:
    """An entry: what JSON can say, and arrays that are mapped and cannot be written to."""

    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


class Unwritable(OSError):
    """The cache cannot be written: no right to, or no room."""


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Tells what the cache refuses from what the maker of an entry cannot read."""
    try:
        yield
    except OSError as error:
        raise Unwritable(str(error)) from error


class Writer:
    """Arrays on their way into an entry, block by block along their first axis."""

    def __init__(self, folder: pathlib.Path, stack: contextlib.ExitStack):
        self._folder, self._stack = folder, stack
        self._files: dict[str, Any] = {}
        self._hashes: dict[str, Any] = {}
        self.shapes: dict[str, tuple[str, tuple[int, ...]]] = {}

    def add(self, name: str, block: np.ndarray) -> None:
        """The next rows of an array; all blocks have one type and one shape behind the first axis.

        Raises ValueError for what is no block of it, or no numbers.
        """
        block = np.ascontiguousarray(block)
        kind, rest = block.dtype.str, block.shape[1:]
        if name not in self._files:
            if block.dtype.kind not in "biuf":
                raise ValueError(f"array {name!r} of type {block.dtype} cannot be kept")
            with _writing():
                self._files[name] = self._stack.enter_context((self._folder / name).open("wb"))
            self._hashes[name] = hashlib.sha256()
            self.shapes[name] = kind, (0, *rest)
        known, shape = self.shapes[name]
        if (known, shape[1:]) != (kind, rest):
            raise ValueError(f"array {name!r}: a block of {kind} {rest} after {known} {shape[1:]}")
        with _writing():
            self._files[name].write(block.data)
        self._hashes[name].update(block.data)
        self.shapes[name] = known, (shape[0] + len(block), *rest)

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file."""
        return {name: found.hexdigest() for name, found in self._hashes.items()}


Make = Callable[[Writer], Mapping[str, Any]]
"""Adds the arrays of an entry and returns its facts."""


def keep(kind: str, key: Any, make: Make) -> Kept:
    """The entry of a kind and a key (what JSON can say), made now unless it is there whole.

    Where the cache cannot be written, it is made for this process alone.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, kind, key], sort_keys=True).encode()).hexdigest()
    place = buckets.cache() / "kept" / kind / digest[:24]
    for _ in range(TRIES):
        if found := read(place):
            return found
        try:
            _make(place, make)
        except Unwritable as error:
            logging.warning("%s cannot be written, so it is made at every launch: %s", place, error)
            break
    if found := read(place):
        return found
    own = pathlib.Path(tempfile.mkdtemp(prefix="fairkd_jax"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    _make(own / "entry", make)
    found = read(own / "entry")
    assert found is not None
    return found


def read(place: pathlib.Path) -> Kept | None:
    """The entry in a folder; None where there is none that holds what was written."""
    try:
        about = files.read_sealed(place / ABOUT)
        if wrong := files.faults(place, about["files"]):
            logging.warning("%s is made again: %s", place, "; ".join(wrong))
            return None
        arrays = {
            name: _mapped(place / name, np.dtype(kind), tuple(shape))
            for name, (kind, shape) in about["arrays"].items()
        }
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError) as error:
        logging.warning("%s is made again: %s", place, error)
        return None
    return Kept(about["facts"], arrays)


def _mapped(path: pathlib.Path, kind: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    if 0 in shape:
        return np.zeros(shape, kind)
    return np.asarray(np.memmap(path, kind, mode="r", shape=shape))


def _make(place: pathlib.Path, make: Make) -> None:
    partial = place.with_name(f"{secrets.token_hex(8)}{files.TEMPORARY}")
    with _writing():
        partial.mkdir(parents=True)
    try:
        with contextlib.ExitStack() as stack:
            writer = Writer(partial, stack)
            facts = make(writer)
        about = {"facts": facts, "arrays": writer.shapes, "files": writer.digests()}
        with _writing():
            files.write_sealed(partial / ABOUT, about)
        _put(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for left in place.parent.glob(f"*{files.TEMPORARY}"):
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < time.time() - LEFT:
                shutil.rmtree(left)


def _put(partial: pathlib.Path, place: pathlib.Path) -> None:
    """Renames a whole entry into its place, where another whole one stays."""
    with contextlib.suppress(OSError):
        partial.rename(place)
        return
    if read(place) is None:  # broken, and in the way: set aside first, so that none is read half
        aside = place.with_name(f"{secrets.token_hex(8)}{files.TEMPORARY}")
        with contextlib.suppress(OSError):
            place.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process was quicker
            partial.rename(place)
