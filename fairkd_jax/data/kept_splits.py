"""Splits that were read from files once: their columns on the disk, so that no launch parses again.

Numbers and texts are kept; a column that the set itself reads row by row is asked of the set when
somebody wants rows of it.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import fairkd_jax.data
from fairkd_jax import files, sources
from fairkd_jax.data import kept
from fairkd_jax.data.dataset import Column, DataSet, Info, Split

IN_MEMORY = ("label", "attribute", "group", "id")  # read by every sampler
ROWS_AT_ONCE = 2**16


class Texts(Column):
    """Texts as UTF-8, one behind the other."""

    dtype = np.dtype(object)

    def __init__(self, text: np.ndarray, ends: np.ndarray):
        self._text, self._ends, self.shape = text, ends, (len(ends),)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        chosen = np.arange(len(self))[rows]
        found = np.empty(len(chosen), object)
        ends = self._ends[chosen]
        starts = np.where(chosen > 0, self._ends[chosen - 1], 0)
        for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist())):
            found[i] = self._text[start:end].tobytes().decode("utf-8", "surrogatepass")
        return found


class Asked(Column):
    """A column of a set, which is loaded when rows of it are asked for."""

    def __init__(self, dtype: str, shape: tuple[int, ...], load: Callable[[], Any]):
        self.dtype, self.shape, self._load = np.dtype(dtype), tuple(shape), load

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self._load()[rows]


def key_of(dataset: DataSet, options: Mapping[str, Any], split: str, content: Any) -> list[Any]:
    """Names what `load` gives: options that are no places, the code, and what files hold."""
    told = {k: v for k, v in options.items() if k not in dataset.places}
    return [told, split, content, code_of(type(dataset))]


def code_of(cls: type) -> dict[str, str]:
    """Digests of the code that decides what a plugin of ours, or one from outside, reads."""
    found = {name: files.digest(path) for name, path in sources.files_of(cls).items()}
    return found | {"fairkd_jax.data": _own_code()}


@functools.cache
def _own_code() -> str:
    folder = pathlib.Path(fairkd_jax.data.__path__[0])
    code = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        code.update(path.read_bytes())
    return code.hexdigest()


def split(key: Any, dataset: DataSet, load: Callable[[], Split]) -> Split:
    """The split of a key, loaded now or at an earlier launch."""
    entry = kept.keep("splits", key, lambda writer: _write(load(), writer))
    facts, found = entry.facts, {}
    for name, told in facts["columns"].items():
        if told["as"] == "texts":
            found[name] = Texts(entry.arrays[f"{name}.text"], entry.arrays[f"{name}.ends"])
        elif told["as"] == "array":
            found[name] = entry.arrays[f"{name}.array"]
        else:
            shape = tuple(told["shape"])
            found[name] = Asked(told["dtype"], shape, lambda n=name: load().columns[n])
    found |= {name: np.array(found[name]) for name in IN_MEMORY if name in found}
    info = Info(**{k: _tuples(v) for k, v in facts["info"].items()})
    # Where it lies now is told by the set.
    info = dataclasses.replace(info, source=dataset.info.source)
    return Split(found, info, facts["left_out"], kept_key(key))


def kept_key(key: Any) -> str:
    """A short name of a key."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _write(loaded: Split, writer: kept.Writer) -> dict[str, Any]:
    columns: dict[str, dict[str, Any]] = {}
    for name, column in loaded.columns.items():
        columns[name] = {"dtype": column.dtype.str, "shape": list(column.shape)}
        if isinstance(column, Column) or column.dtype.kind not in "biufO":
            columns[name]["as"] = "asked"
        elif column.dtype.kind == "O":
            texts = all(isinstance(value, str) for value in column)
            columns[name]["as"] = "texts" if texts else "asked"
            if texts:
                _write_texts(name, column, writer)
        else:
            columns[name]["as"] = "array"
            writer.add(f"{name}.array", column)
    return {
        "columns": columns,
        "info": files.plain(dataclasses.asdict(loaded.info)),
        "left_out": dict(loaded.left_out),
    }


def _write_texts(name: str, column: np.ndarray, writer: kept.Writer) -> None:
    end = 0
    for i in range(0, max(len(column), 1), ROWS_AT_ONCE):
        texts = [text.encode("utf-8", "surrogatepass") for text in column[i : i + ROWS_AT_ONCE]]
        ends = end + np.cumsum([len(text) for text in texts], dtype=np.int64)
        writer.add(f"{name}.text", np.frombuffer(b"".join(texts), np.uint8))
        writer.add(f"{name}.ends", ends)
        end = int(ends[-1]) if len(ends) else 0
