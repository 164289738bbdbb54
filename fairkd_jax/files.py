"""Files written whole and synced, and digests that tell whether what was read is what was written.

On a disk or in a bucket (buckets.py): nothing else in the project tells them apart.

A digest is that of the content alone. It is kept by path, size and times of change, in the process
and, for files that are large or far, in the user's cache: what has not changed is not read again.
"""

import atexit
import contextlib
import hashlib
import json
import math
import os
import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fairkd_jax import buckets
from fairkd_jax.types import Path

LARGE = 2**20  # bytes from which a digest is kept between processes
KEEP = 5.0  # seconds between writes of digests
SETTLED = 2.0  # seconds: a younger file may change again without a new time of change
TEMPORARY = ".part"


class Damaged(ValueError):
    """A file that does not hold what was written; the message names it."""


class Changed(RuntimeError):
    """A file that no longer holds what was read; the message names it."""


def write(path: Path, text: str, *, sync: bool = True) -> None:
    """The whole file or none of it, in place of any that was there; on disk when this returns.

    Raises OSError, naming the file.
    """
    if not buckets.is_local(path):
        path.write_text(text)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if sync:
            sync_one(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # the call for a full disk does not say where
        raise


def sync_one(path: Path) -> None:
    """A file, or the names in a folder, are on disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync(folder: Path) -> None:
    """All files below a folder are on disk when this returns."""
    if buckets.is_local(folder):
        for path in folder.rglob("*"):
            sync_one(path)
        sync_one(folder)


def make(folder: Path) -> Path:
    """The folder, made where it must be: there are none in a bucket."""
    if buckets.is_local(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_json(path: Path, value: Any) -> None:
    """As `write`; NaN is written as null, arrays as lists."""
    write(path, json.dumps(plain(value), indent=1) + "\n")


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """As `write_json`, with a digest of its own in it; `read_sealed` checks it."""
    value = plain(dict(value))
    write_json(path, {**value, "sha256": _hash_of(value)})


def read_json(path: Path) -> Any:
    """Raises Damaged, naming the file, where it holds no JSON; FileNotFoundError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the decoder or of the parser
        raise Damaged(f"{path} is damaged, it holds no JSON: {error}") from error


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote. Raises Damaged, naming the file; FileNotFoundError."""
    value = read_json(path)
    if not isinstance(value, dict) or value.pop("sha256", None) != _hash_of(value):
        raise Damaged(f"{path} is damaged, it is not what was written")
    return value


def _hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def plain(value: Any) -> Any:
    """Arrays as lists and NaN or infinity as None: what JSON can say."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray | jax.Array | np.generic):
        return plain(np.asarray(value).tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def remove(path: Path) -> None:
    """Deletes a file or a folder; nothing where there is none."""
    if not buckets.is_local(path):
        buckets.remove(path)
    elif path.is_dir() and not path.is_symlink():
        while path.exists():
            with contextlib.suppress(FileNotFoundError):  # another process removes it too
                shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Removes what writers that were killed left below a folder."""
    for left in folder.rglob(f".*{TEMPORARY}") if buckets.is_local(folder) else ():
        left.unlink(missing_ok=True)


def digest(path: Path, *, anew: bool = False) -> str:
    """SHA-256 of a file's content; `anew`: read now, whatever is remembered.

    That of a folder is of the names and digests of all files below. Raises OSError, naming the
    file, where it cannot be read.
    """
    if path.is_dir():
        return _hash_of(digests(path))
    return _digest(whole(path), _signature(path), anew)


def _digest(path: Path, signature: buckets.Signature, anew: bool) -> str:
    known = _remembered().get(str(path))
    if known and known["signature"] == signature and not anew:
        return known["sha256"]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    local = buckets.is_local(path)
    settled = not local or max(signature[1:3]) / 1e9 < time.time() - SETTLED
    if settled and _signature(path) == signature:
        _remembered()[str(path)] = {"signature": signature, "sha256": found, "far": not local}
        if _lasting(_remembered()[str(path)]):
            _keep_soon()
    return found


def digests(folder: Path, leave: tuple[str, ...] = ()) -> dict[str, str]:
    """Digest by relative path of every file below a folder, but for the top entries `leave`."""
    found = {n: s for n, s in sorted(_listing(folder).items()) if n.split("/")[0] not in leave}
    return {name: _digest(whole(folder) / name, s, False) for name, s in found.items()}


def faults(folder: Path, expected: Mapping[str, str], *, anew: bool = False) -> list[str]:
    """What is wrong with the files of a folder, a phrase each; [] where all are as expected.

    Raises OSError, naming the file, for one that is there and cannot be read.
    """
    there, found = _listing(folder), []
    for name, wanted in expected.items():
        if name not in there:
            found.append(f"{name} is missing")
        elif there[name][0] == 0 and wanted != hashlib.sha256().hexdigest():
            found.append(f"{name} is empty")
        elif _digest(whole(folder) / name, there[name], anew) != wanted:
            found.append(f"{name} holds something else than was written")
    return found


def for_nets(folder: Path | str) -> Path:
    """A folder that nets will be written below, from the root on.

    Raises ValueError for one in s3://, where Orbax would make a folder of that name on this disk.
    """
    if os.fspath(folder).startswith("s3://"):
        raise ValueError(
            f"no work folder can be {os.fspath(folder)}: Orbax, which writes the nets, knows "
            "folders and gs:// alone. Mount the bucket, and name the folder"
        )
    return whole(buckets.path(folder))


def whole(path: Path) -> Path:
    """The path from the root on."""
    return path.absolute() if buckets.is_local(path) else path


def _listing(folder: Path) -> dict[str, buckets.Signature]:
    """Signature of every file below a folder by its relative path."""
    if not buckets.is_local(folder):
        return buckets.listing(folder)
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # gone since
            if path.is_file():
                found[path.relative_to(folder).as_posix()] = _signature(path)
    return found


def _signature(path: Path) -> buckets.Signature:
    if not buckets.is_local(path):
        return buckets.signature(path)
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


_MEMORY: dict[str, dict[str, Any]] = {}  # path -> signature and digest
_KEPT: dict[str, float] = {}  # when digests were last written


def _remembered() -> dict[str, dict[str, Any]]:
    if not _MEMORY:
        _MEMORY[""] = {"signature": None}  # so that the file is read once
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            _MEMORY.update(read_sealed(_cache())["files"])  # where it can be trusted
    return _MEMORY


def _lasting(known: Mapping[str, Any]) -> bool:
    """Is it worth keeping between processes?"""
    return bool(known.get("far")) or known["signature"][0] >= LARGE


def _keep_soon() -> None:
    """Of many new ones, some now and then and all at the end."""
    if not _KEPT:
        atexit.register(_keep)
    if time.monotonic() - _KEPT.get("at", -KEEP) > KEEP:
        _keep()
        _KEPT["at"] = time.monotonic()


def _keep() -> None:
    large = {k: v for k, v in _MEMORY.items() if k and _lasting(v)}
    with contextlib.suppress(OSError):  # where it cannot be written, all is read anew next time
        _cache().parent.mkdir(parents=True, exist_ok=True)
        write_sealed(_cache(), {"files": dict(list(large.items())[-10_000:])})


def _cache() -> pathlib.Path:
    return buckets.cache() / "digests.json"
