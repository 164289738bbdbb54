"""The files that the authors of a set distribute, found by name: in a folder or in an archive.

A user has the official archive, that archive unpacked, or a folder that holds either: the same file
is found in all of them. Nothing is unpacked, but a compressed .tar is written out as it is, into a
file that is gone when the process ends; archives within the folder are looked into too.
"""

import contextlib
import dataclasses
import fnmatch
import gzip
import shutil
import tarfile
import tempfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from fairkd_jax import buckets
from fairkd_jax.types import Path


@dataclasses.dataclass(frozen=True)
class TarPath:
    """A file within a .tar."""

    archive: str
    at: str
    opened: tarfile.TarFile = dataclasses.field(repr=False)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.at.rpartition("/")[2]

    def open(self, mode: str = "rb") -> Any:
        """Its bytes, as a file."""
        return self.opened.extractfile(self.at)

    def __str__(self) -> str:
        return f"{self.archive}/{self.at}"


AnyPath = Path | zipfile.Path | TarPath  # all that have `name` and `open("rb")`


class Missing(ValueError):
    """A file that is not there; the message names it."""


class Source:
    """What lies below a folder or in an archive, .zip or .tar, by path from there."""

    def __init__(self, path: str | Path):
        """Raises ValueError, naming the path, for what is neither, or for a damaged archive."""
        self.path = buckets.path(path)
        self._files: dict[str, AnyPath] = {}
        if self.path.is_dir():
            for found in sorted(self.path.rglob("*")):
                if members := _archive(found):
                    self._files |= members(found)
                if found.is_file():
                    self._files[found.relative_to(self.path).as_posix()] = found
        elif (members := _archive(self.path)) and self.path.is_file():
            self._files = members(self.path)
        else:
            raise ValueError(
                f"{self.path} is neither a folder nor one of {', '.join(ARCHIVES)}: name what "
                "holds the set"
            )

    def file(self, *names: str) -> AnyPath:
        """The file of the first of these names that is there, in whatever folder.

        A name may be a path from any folder on, with wildcards; NAME.gz is found too. Raises
        Missing where none is there, ValueError where two of one name are.
        """
        for name in names:
            spelled = (name, f"{name}.gz")
            found = [p for n, p in self._files.items() if any(_is_called(n, k) for k in spelled)]
            if len(found) > 1:
                told = ", ".join(map(str, found[:5]))
                raise ValueError(f"{self.path} holds {len(found)} files {name}: {told}. Keep one")
            if found:
                return found[0]
        there = ", ".join([*self._files][:10]) or "nothing"
        more = f" and {len(self._files) - 10} more" if len(self._files) > 10 else ""
        raise Missing(f"{self.path} holds no file {' or '.join(names)}; there is {there}{more}")

    @property
    def all(self) -> Mapping[str, AnyPath]:
        """All files by path, from the folder or from the top of the archive that holds them."""
        return self._files

    def files(self, pattern: str, parts: int = 1) -> Mapping[str, AnyPath]:
        """All files of a pattern, by the last parts of their paths, in the order of their paths."""
        found = {n: p for n, p in self._files.items() if _is_called(n, pattern)}
        return {"/".join(n.split("/")[-parts:]): p for n, p in found.items()}


def _is_called(path: str, name: str) -> bool:
    return fnmatch.fnmatchcase(path, name) or fnmatch.fnmatchcase(path, f"*/{name}")


def content(path: AnyPath, place: str = "") -> bytes:
    """What a file holds. Raises ValueError for a broken one, naming it and the place that asked."""
    try:
        if isinstance(path, TarPath):
            with READING, path.open() as file:
                return file.read()
        return path.read_bytes()
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        raise ValueError(f"{place or path}: {path} is broken: {error}") from error


READING = threading.Lock()  # a .tar is one file, with one place in it


def _archive(path: Path) -> Any:
    return next((read for end, read in ARCHIVES.items() if path.name.endswith(end)), None)


def _tar(archive: Path) -> dict[str, AnyPath]:
    with contextlib.ExitStack() as stack:
        try:
            if archive.name.endswith("gz"):
                plain = stack.enter_context(tempfile.TemporaryFile())
                with gzip.open(buckets.near(archive)) as unzipped:
                    shutil.copyfileobj(unzipped, plain, 2**20)
                plain.seek(0)
            else:
                plain = stack.enter_context(buckets.near(archive).open("rb"))
            opened = tarfile.open(fileobj=plain)  # noqa: SIM115, open as long as its members
            found = [member for member in opened.getmembers() if member.isfile()]
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{archive} is no whole .tar: {error}") from error
        weakref.finalize(opened, stack.pop_all().close)
    return {member.name: TarPath(str(archive), member.name, opened) for member in found}


def _members(archive: Path) -> dict[str, AnyPath]:
    try:
        opened = zipfile.ZipFile(buckets.near(archive))
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{archive} is no whole .zip: {error}") from error
    names = [n for n in opened.namelist() if not n.endswith("/") and "__MACOSX/" not in n]
    return {name: zipfile.Path(opened, name) for name in names}


ARCHIVES = {".zip": _members, ".tar": _tar, ".tar.gz": _tar, ".tgz": _tar}
