"""Files written whole and synced, and digests that tell whether what was read is what was written.

A digest is that of the content alone. It is kept by path, size and times of change, in the process
and, for large files, in the user's cache: what has not changed is not read again.
"""

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

LARGE = 2**20  # bytes from which a digest is kept between processes
SETTLED = 2.0  # seconds: a younger file may change again without a new time of change
TEMPORARY = ".part"


class Damaged(ValueError):
    """A file that does not hold what was written; the message names it."""


class Changed(RuntimeError):
    """A file that no longer holds what was read; the message names it."""


def write(path: pathlib.Path, text: str, *, sync: bool = True) -> None:
    """The whole file or none of it, in place of any that was there; on disk when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    os.replace(temporary, path)
    if sync:
        sync_one(path.parent)


def sync_one(path: pathlib.Path) -> None:
    """A file, or the names in a folder, are on disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync(folder: pathlib.Path) -> None:
    """All files below a folder are on disk when this returns."""
    for path in folder.rglob("*"):
        sync_one(path)
    sync_one(folder)


def write_json(path: pathlib.Path, value: Any) -> None:
    """As `write`; NaN is written as null, arrays as lists."""
    write(path, json.dumps(plain(value), indent=1) + "\n")


def write_sealed(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    """As `write_json`, with a digest of its own in it; `read_sealed` checks it."""
    value = plain(dict(value))
    write_json(path, {**value, "sha256": _hash_of(value)})


def read_json(path: pathlib.Path) -> Any:
    """Raises Damaged, naming the file, where it holds no JSON; FileNotFoundError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the decoder or of the parser
        raise Damaged(f"{path} is damaged, it holds no JSON: {error}") from error


def read_sealed(path: pathlib.Path) -> dict[str, Any]:
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


def remove(path: pathlib.Path) -> None:
    """Deletes a file or a folder; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def tidy(folder: pathlib.Path) -> None:
    """Removes what writers that were killed left below a folder."""
    for left in folder.rglob(f".*{TEMPORARY}"):
        left.unlink(missing_ok=True)


def digest(path: pathlib.Path, *, anew: bool = False) -> str:
    """SHA-256 of a file's content; `anew`: read now, whatever is remembered.

    Raises OSError, naming the file, where it cannot be read.
    """
    path = path.absolute()
    signature = _signature(path)
    known = _remembered().get(str(path))
    if known and known["signature"] == signature and not anew:
        return known["sha256"]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    changed = max(signature[1:3]) / 1e9
    if _signature(path) == signature and changed < time.time() - SETTLED:
        _remembered()[str(path)] = {"signature": signature, "sha256": found}
        if signature[0] >= LARGE:
            _keep()
    return found


def digests(folder: pathlib.Path, leave: tuple[str, ...] = ()) -> dict[str, str]:
    """Digest by relative path of every file below a folder, but for the top entries `leave`."""
    found = (p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file())
    return {p.as_posix(): digest(folder / p) for p in found if p.parts[0] not in leave}


def faults(folder: pathlib.Path, expected: Mapping[str, str], *, anew: bool = False) -> list[str]:
    """What is wrong with the files of a folder, a phrase each; [] where all are as expected.

    Raises OSError, naming the file, for one that is there and cannot be read.
    """
    found = []
    for name, wanted in expected.items():
        path = folder / name
        if not path.exists():
            found.append(f"{name} is missing")
        elif path.stat().st_size == 0 and wanted != hashlib.sha256().hexdigest():
            found.append(f"{name} is empty")
        elif digest(path, anew=anew) != wanted:
            found.append(f"{name} holds something else than was written")
    return found


def _signature(path: pathlib.Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


_MEMORY: dict[str, dict[str, Any]] = {}  # path -> signature and digest


def _remembered() -> dict[str, dict[str, Any]]:
    if not _MEMORY:
        _MEMORY[""] = {"signature": None}  # so that the file is read once
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            _MEMORY.update(read_sealed(_cache())["files"])  # where it can be trusted
    return _MEMORY


def _keep() -> None:
    large = {k: v for k, v in _MEMORY.items() if k and v["signature"][0] >= LARGE}
    with contextlib.suppress(OSError):  # where it cannot be written, all is read anew next time
        _cache().parent.mkdir(parents=True, exist_ok=True)
        write_sealed(_cache(), {"files": dict(list(large.items())[-10_000:])})


def _cache() -> pathlib.Path:
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "fairkd_jax" / "digests.json"
