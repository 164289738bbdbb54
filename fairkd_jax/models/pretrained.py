"""Published weights (safetensors) into the variables of a Net, and sizes from a config.json.

A family declares, in `published_names`, which of its modules has which published name; the layout
of a variable follows from its own name and is the same in all families. Nothing is unpickled.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fairkd_jax import registry
from fairkd_jax.models.net import Architecture, Net
from fairkd_jax.registry import UnknownName

VARIABLES = {  # our name of a variable -> theirs, the present one first
    "kernel": ("weight",),
    "embedding": ("weight",),
    "scale": ("weight", "gamma"),
    "bias": ("bias", "beta"),
    "mean": ("running_mean",),
    "var": ("running_var",),
}
HEADS = ("take", "fresh")


def load(
    net: Net, path: str | Path, variables: Mapping[str, Any], head: str = "take"
) -> dict[str, Any]:
    """`variables` with every array replaced by the published one, placed as it was placed.

    `path` is a .safetensors file or a folder with model.safetensors. With `head="fresh"` the task
    head stays as it is in `variables`, whatever the file has; which keys stayed is logged.

    Raises UnknownName for another `head`, FileNotFoundError, or one ValueError that lists all keys
    that are missing, surplus or of another shape.
    """
    if head not in HEADS:
        raise UnknownName(head, "way with the head", HEADS)
    file = _file(path, "model.safetensors")
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is no safetensors file: {error}") from error
    ignored = net.architecture.ignored_keys
    tensors = {k: v for k, v in tensors.items() if not re.fullmatch(ignored, k)}

    tables = [_key_table(net, names) for names in net.architecture.published_names()]
    if not tables:
        raise ValueError(f"{type(net.architecture).__name__} has no published form to load")
    table = max(
        tables, key=lambda t: len(tensors.keys() & {k for keys in t.values() for k in keys})
    )
    kept = {p for p in table if head == "fresh" and p.startswith("params/head/")}
    expected = {k for p in kept for k in table[p]}  # may be there, is not read
    arrays, faults = {}, []
    shapes = _leaves(net.variable_shapes())
    for name in table.keys() - kept:
        keys = table[name]
        found = next((k for k in keys if k in tensors), None)
        if found is None:
            faults.append(f"missing: {keys[0]}")
            continue
        expected.add(found)
        array = _ours(name, tensors[found]).astype(np.float32)
        if array.shape != shapes[name].shape:
            theirs = _theirs(name, np.empty(shapes[name].shape, np.bool_)).shape
            faults.append(f"misshapen: {found} is {tensors[found].shape}, the net's is {theirs}")
        arrays[name] = array
    faults += [f"surplus: {k}" for k in tensors.keys() - expected]
    if faults:
        lines = "\n  ".join(sorted(faults))
        raise ValueError(
            f"{file} does not go with {net.architecture}, {net.num_classes} classes, "
            f"head={head!r} (choices: {', '.join(HEADS)}):\n  {lines}"
        )
    if kept:
        logging.info("%s: kept fresh: %s", file, ", ".join(sorted(kept)))
    return jax.tree.map_with_path(lambda p, x: _place(arrays.get(_name(p)), x), dict(variables))


def to_published(net: Net, variables: Mapping[str, Any], dialect: int = 0) -> dict[str, np.ndarray]:
    """Variables (or gradients shaped like them) under published keys, in the published layout."""
    table = _key_table(net, net.architecture.published_names()[dialect])
    return {table[k][0]: _theirs(k, np.asarray(v)) for k, v in _leaves(variables).items()}


def architecture_from_config(path: str | Path) -> Architecture:
    """The architecture that a config.json describes; `path` is the file or its folder.

    Raises UnknownName for a model type that no family has, ValueError for an unknown variant.
    """
    file = _file(path, "config.json")
    config = json.loads(file.read_text())
    families = [registry.plugin("models", n) for n in registry.available("models")]
    types = {name: f for f in families for name in f.model_types}
    model_type = str(config.get("model_type"))
    if model_type not in types:
        raise UnknownName(model_type, f"model_type in {file}:", types)
    return types[model_type].from_config(config)


def _file(path: str | Path, name: str) -> Path:
    file = Path(path) / name if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}: give a folder that holds {name}, or such a file")
    return file


def _key_table(net: Net, names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Our path of each variable -> the keys that it may have in a file."""
    table = {}
    for path in _leaves(net.variable_shapes()):
        alone = path.split("/", 1)[1]
        module, variable = alone.rsplit("/", 1)
        usual = VARIABLES.get(variable, ())
        table[path] = (
            (names[alone],) if alone in names else tuple(f"{names[module]}.{v}" for v in usual)
        )
    return table


def _ours(path: str, array: np.ndarray) -> np.ndarray:
    """Dense [out, in] -> [in, out]; convolution OIHW -> HWIO; all else as it is."""
    if not path.endswith("/kernel"):
        return array
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _theirs(path: str, array: np.ndarray) -> np.ndarray:
    if not path.endswith("/kernel"):
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def _place(array: np.ndarray | None, like: Any) -> Any:
    """`array` where `like` is committed to be; `like` itself where there is none."""
    if array is None:
        return like
    return jax.device_put(array, like.sharding if getattr(like, "committed", False) else None)


def _leaves(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
