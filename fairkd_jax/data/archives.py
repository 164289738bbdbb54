"""The files that the authors of a set distribute, found by name: in a folder or in an archive.

A user has the official archive, that archive unpacked, or a folder that holds either: the same file
is found in all of them. Nothing is unpacked; a .zip within the folder is looked into too.
"""

import fnmatch
import zipfile
from collections.abc import Mapping

from fairkd_jax import buckets
from fairkd_jax.types import Path

AnyPath = Path | zipfile.Path  # all that have `name` and `open("rb")`


class Missing(ValueError):
    """A file that is not there; the message names it."""


class Source:
    """What lies below a folder or in a .zip, by path from there."""

    def __init__(self, path: str | Path):
        """Raises ValueError, naming the path, for what is neither, or for a damaged archive."""
        self.path = buckets.path(path)
        self._files: dict[str, AnyPath] = {}
        if self.path.is_dir():
            for found in sorted(self.path.rglob("*")):
                if found.suffix == ".zip":
                    self._files |= _members(found)
                if found.is_file():
                    self._files[found.relative_to(self.path).as_posix()] = found
        elif self.path.suffix == ".zip" and self.path.is_file():
            self._files = _members(self.path)
        else:
            raise ValueError(f"{self.path} is neither a folder nor a .zip: name what holds the set")

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

    def files(self, pattern: str) -> Mapping[str, AnyPath]:
        """All files of a pattern, by their own names, in the order of their paths."""
        return {p.name: p for n, p in self._files.items() if _is_called(n, pattern)}


def _is_called(path: str, name: str) -> bool:
    return fnmatch.fnmatchcase(path, name) or fnmatch.fnmatchcase(path, f"*/{name}")


def _members(archive: Path) -> dict[str, AnyPath]:
    try:
        opened = zipfile.ZipFile(buckets.near(archive))
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{archive} is no whole .zip: {error}") from error
    names = [n for n in opened.namelist() if not n.endswith("/") and "__MACOSX/" not in n]
    return {name: zipfile.Path(opened, name) for name in names}
