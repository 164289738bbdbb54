"""Folders in buckets (gs://, s3://) beside those on disks, by `etils.epath` and `fsspec`.

An object is written whole or not at all, and all see it at once: nothing is renamed, appended to or
synced there, and there are no empty folders. What must be a file on this disk is read through a
cache of copies.
"""

import contextlib
import fnmatch
import hashlib
import importlib.util
import os
import pathlib
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Path

SCHEMES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}  # package that reads it, extra with it
VERSIONS = ("generation", "ETag", "etag", "md5Hash", "mtime")  # of an object, the surest first

Signature = list[Any]  # [bytes, ...]: equal for equal contents


def path(text: str | os.PathLike) -> Path:
    """A folder or file as a flag or a config names it: on this disk, or "gs://bucket/name".

    Raises UnknownName for another scheme, ModuleNotFoundError naming the extra that is missing,
    ValueError for a bucket whose name `pathlib` has shortened.
    """
    scheme, mark, _ = os.fspath(text).partition("://")
    if not mark:
        if os.fspath(text).partition(":/")[0] in SCHEMES:
            raise ValueError(
                f"{os.fspath(text)} is no folder here: name a bucket by a str, with //"
            )
        return pathlib.Path(text).expanduser()
    if scheme not in SCHEMES:
        raise UnknownName(scheme, f"scheme of {os.fspath(text)}:", SCHEMES)
    package, extra = SCHEMES[scheme]
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"{os.fspath(text)}: {scheme}:// is read by {package}, which is not there: "
            f"pip install 'fairkd_jax[{extra}]'"
        )
    import fsspec

    # Others write too, so what was listed before is stale. Before a filesystem is made, since that
    # is kept.
    for name in ("gs", "gcs", "s3", "s3a"):
        fsspec.config.conf.setdefault(name, {})["use_listings_cache"] = False
    return epath.Path(text)


def is_local(path: Path) -> bool:
    """Is it on a disk, be it within an archive?"""
    return isinstance(path, pathlib.Path) or not isinstance(path, pathlib.PurePath)


def _filesystem(path: Path) -> Any:
    import fsspec

    return fsspec.filesystem(os.fspath(path).partition("://")[0])


def listing(folder: Path) -> dict[str, Signature]:
    """All objects below a folder by relative name, with signatures; {} where there are none."""
    filesystem = _filesystem(folder)
    top = filesystem._strip_protocol(os.fspath(folder))
    found = filesystem.find(top, detail=True)
    return {name[len(top) + 1 :]: _signature(info) for name, info in found.items()}


def signature(path: Path) -> Signature:
    """That of one object. Raises FileNotFoundError."""
    info = _filesystem(path).info(os.fspath(path))
    if info["type"] != "file":
        raise FileNotFoundError(f"{path} is no object, but a folder of some")
    return _signature(info)


def _signature(info: dict[str, Any]) -> Signature:
    return [info["size"], *(str(info[k]) for k in VERSIONS if info.get(k))][:2]


def remove(path: Path) -> None:
    """Deletes an object, or all below a folder; nothing where there are none."""
    with contextlib.suppress(FileNotFoundError):
        _filesystem(path).rm(os.fspath(path), recursive=True)


def near(path: Path) -> pathlib.Path:
    """The file on this disk: itself, or a copy of the object as it is now.

    Raises FileNotFoundError where there is none.
    """
    return path if is_local(path) else _copies(path.parent, [path.name]) / path.name


def near_folder(folder: Path, patterns: Iterable[str]) -> pathlib.Path:
    """A folder on this disk: itself, or one with copies of what lies in it and fits a pattern."""
    if is_local(folder):
        return folder
    names = [n for n in listing(folder) if any(fnmatch.fnmatch(n, p) for p in patterns)]
    return _copies(folder, [n for n in names if "/" not in n])


def _copies(folder: Path, names: list[str]) -> pathlib.Path:
    """A folder of the cache that holds what these objects hold now."""
    versions = {name: signature(folder / name) for name in sorted(names)}
    key = hashlib.sha256(repr((os.fspath(folder), versions)).encode()).hexdigest()[:24]
    place = cache() / "objects" / key / folder.name
    if not place.is_dir():
        partial = place.with_name(f"{secrets.token_hex(4)}.part")
        partial.mkdir(parents=True)
        for name in names:
            _filesystem(folder).get_file(os.fspath(folder / name), str(partial / name))
        if versions != {name: signature(folder / name) for name in sorted(names)}:
            raise OSError(f"{folder} changed while it was read: launch again when it is whole")
        with contextlib.suppress(OSError):  # another process was quicker
            partial.rename(place)
    return place


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[pathlib.Path]:
    """A folder on this disk to write files into: itself, or one whose files go there at the end."""
    if is_local(folder):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        yield pathlib.Path(place)
        for file in sorted(pathlib.Path(place).iterdir()):
            _filesystem(folder).put_file(str(file), os.fspath(folder / file.name))


def cache() -> pathlib.Path:
    """Where copies and digests are kept, on this disk; it may be deleted at any time."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "fairkd_jax"
