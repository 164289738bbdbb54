"""Which files a plugin from outside is written in: what they hold is part of a stage's identity.

They are its module, the packages that hold it, and what these import, anywhere in them and so on,
as far as it is the author's own: what lies in the same top-level package, or beside that package
where nothing is installed (no site-packages). Libraries are not followed, nor is a module that is
only named while the program runs, `importlib.import_module(name)`.
"""

import ast
import functools
import importlib.util
import pathlib
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec

from fairkd_jax import files
from fairkd_jax.registry import is_ours

_IMPORTED: dict[pathlib.Path, str] = {}  # what files held when this process first asked


def files_of(cls: type) -> dict[str, pathlib.Path]:
    """Files by module name; {} for a plugin of ours.

    Raises ValueError for a class that lies in no file, and files.Changed, naming the file, where
    one no longer holds what was imported: the code in memory would not be what is recorded.
    """
    found: dict[str, pathlib.Path] = {}
    if is_ours(cls):
        return found
    if (start := _file(cls.__module__)) is None:
        raise ValueError(f"{cls.__module__} lies in no file, so nothing tells whether it changed")
    top = cls.__module__.partition(".")[0]
    folder = start.parents[cls.__module__.count(".") + (start.stem == "__init__")]
    waiting = [cls.__module__]
    while waiting:
        name = waiting.pop()
        if name in found or not _is_own(name.partition(".")[0], top, folder):
            continue
        if above := name.rpartition(".")[0]:
            waiting.append(above)
        if path := _file(name):
            found[name] = path
            waiting += _imports(path, _digest(name, path), name)
    return dict(sorted(found.items()))


def _digest(name: str, path: pathlib.Path) -> str:
    digest = files.digest(path)
    if name in sys.modules and _IMPORTED.setdefault(path, digest) != digest:
        raise files.Changed(
            f"{path} ({name}) changed since it was imported, and Python runs what it held then. "
            "Start Python anew: what depends on the file is then done anew"
        )
    return digest


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except Exception:  # an optional import, a name that is no module, a package that fails
        return None


def _file(name: str) -> pathlib.Path | None:
    """The file of a module; None where it has none, as a folder without __init__.py."""
    spec = _spec(name)
    return pathlib.Path(spec.origin) if spec and spec.has_location and spec.origin else None


@functools.lru_cache(maxsize=4096)
def _is_own(other: str, top: str, folder: pathlib.Path) -> bool:
    """Is a top-level module the author's, as `top` is, which lies in the folder?"""
    if other == top or other == "fairkd_jax" or any(folder.glob("*.dist-info")):
        return other == top
    spec = _spec(other)
    places = [*(spec.submodule_search_locations or ()), spec.origin or ""] if spec else []
    return any(pathlib.Path(place).parent == folder for place in places)


@functools.lru_cache(maxsize=4096)
def _imports(path: pathlib.Path, digest: str, name: str) -> tuple[str, ...]:
    """Names of modules that a file may import; some are names inside of modules."""
    return tuple(_names(path, name)) if path.suffix == ".py" else ()


def _names(path: pathlib.Path, name: str) -> Iterator[str]:
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(parts if node.level else ()), *filter(None, [node.module])])
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))
