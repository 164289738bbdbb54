"""Published weights (safetensors) into the variables of a Net, and back out for others to load.

A family declares, in `published_names`, which of its modules has which published name; the layout
of a variable follows from its own name and is the same in all families.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from absl import logging
from safetensors.numpy import save_file

from fairkd_jax import buckets, hub, registry, types
from fairkd_jax.data.dataset import Encoder
from fairkd_jax.models import labels
from fairkd_jax.models.net import Architecture, Net, check_family, families, leaves, path_of
from fairkd_jax.models.weights import HEADS, Weights, check_head, find, joined, key_of
from fairkd_jax.registry import UnknownName

VARIABLES = {  # our name of a variable -> theirs, the present one first
    "kernel": ("weight",),
    "embedding": ("weight",),
    "scale": ("weight", "gamma"),
    "bias": ("bias", "beta"),
    "mean": ("running_mean",),
    "var": ("running_var",),
}
HEAD = "params/head/"  # where the task head is, in every family
FLOATS = ("F64", "F32", "F16", "BF16")  # all are read as float32


def load(
    net: Net,
    path: str | Path,
    variables: Mapping[str, Any],
    head: str = "take",
    label_names: Sequence[str] | None = None,
    label_map: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """`variables` with every array replaced by the published one, placed as it was placed.

    `path` is a .safetensors file, a folder or a hub name. With `head="fresh"` the task head stays
    as it is in `variables`, whatever the file has. With `head="take"` and `label_names`, those of
    the task, the head's rows are put in the task's order by the names that the config.json beside
    the weights gives them, or by what `label_map` says that such a name means. What was adapted,
    reordered or left is logged.

    Raises what `check` raises, and ValueError naming the keys of weights that are not finite.
    """
    match = _match(net, find(path), head, label_names, label_map)
    tensors = match.weights.read(set(match.keys.values()))
    if wild := [key for key, tensor in tensors.items() if not np.isfinite(tensor).all()]:
        raise ValueError(f"{path} holds numbers that are not finite: {', '.join(sorted(wild))}")
    axes, arrays = _class_axes(net, match.shapes) if match.order else {}, {}
    for name, key in match.keys.items():
        array, shape = _ours(name, tensors[key]), match.shapes[name]
        if array.shape != shape:
            array = _adapted(net, name, array, shape)
        if name in axes:
            array = np.take(array, match.order, axes[name])
        arrays[name] = array
    for note in match.notes:  # not as info, which launchers do not show
        logging.warning("%s: %s", path, note)
    return jax.tree.map_with_path(lambda p, x: _place(arrays.get(path_of(p)), x), dict(variables))


def check(
    net: Net,
    path: str | Path,
    head: str = "take",
    label_names: Sequence[str] | None = None,
    label_map: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """That `load` would do, known from the headers of the files alone.

    Raises UnknownName for another `head`, FileNotFoundError, or one ValueError that lists all keys
    that are missing, surplus or of another shape, and labels that are not the task's.
    """
    _match(net, find(path), head, label_names, label_map)


@dataclasses.dataclass(frozen=True)
class _Match:
    """Published weights that go with a net, and how."""

    weights: Weights
    shapes: Mapping[str, tuple[int, ...]]  # our path of a variable -> its shape in the net
    keys: Mapping[str, str]  # our path of a variable -> its key in the file
    order: list[int] | None  # number in the file of each of the task's labels, where they differ
    notes: list[str]


def _match(
    net: Net,
    weights: Weights,
    head: str,
    label_names: Sequence[str] | None,
    label_map: Mapping[str, str],
) -> _Match:
    check_head(head)
    family = net.architecture
    shapes = _shapes(net)
    tables = [_key_table(shapes, names) for names in family.published_names()]
    if not tables:
        raise ValueError(f"{type(family).__name__} has no published form to load")
    check_family(type(family), weights)
    there = weights.headers(k for table in tables for keys in table.values() for k in keys)
    table = max(tables, key=lambda t: len(there.keys() & {k for keys in t.values() for k in keys}))
    fresh = {p for p in table if head == "fresh" and p.startswith(HEAD)}
    left = {k for p in fresh for k in table[p]} & there.keys()
    found, faults, notes = {}, [], []
    if weights.wrapper:
        notes.append(f"wrapped: {weights.wrapper!r} left off every key")
    if head == "fresh" and not fresh:
        faults.append("head: the net has none of its own to be fresh, leave head out")
    if fresh:
        left |= _other_heads(table, there)
        fresh |= _unpublished(family, table, there)
    for name in sorted(table.keys() - fresh):
        key = next((k for k in table[name] if k in there), None)
        if key is None:
            faults.append(f"missing: {table[name][0]}")
            continue
        found[name], shape = key, shapes[name]
        kind, theirs = there[key]
        if kind not in FLOATS:
            faults.append(f"not floating: {key} is {kind}, read are {', '.join(FLOATS)}")
        ours = _ours(name, _blank(theirs)).shape
        if ours != shape:
            if _adapted(net, name, np.zeros(ours, np.float32), shape) is None:
                fits = _theirs(name, _blank(shape)).shape
                faults.append(f"misshapen: {key} is {theirs}, the net's is {fits}")
            else:
                notes.append(f"adapted: {key}, {ours} in the file, to {shape}")
    surplus = there.keys() - set(found.values()) - left
    surplus = [k for k in surplus if not re.fullmatch(family.ignored_keys, k)]
    faults += [f"surplus: {k}" for k in surplus]
    if fresh:
        notes.append(
            f"head fresh: {', '.join(sorted(fresh))} kept as they are; "
            f"not taken: {', '.join(sorted(left)) or 'nothing, the file has none'}"
        )
    order = None
    if label_names is not None and any(p.startswith(HEAD) for p in found):
        order = labels.order(weights.config or {}, list(label_names), label_map, notes, faults)
    elif label_map:
        faults.append("label_map: no head with labels is taken from the weights, leave it out")
    if faults and weights.mixed:  # then most keys are missing by one name and surplus by another
        faults = [f for f in faults if not f.startswith(("missing", "surplus"))] + [weights.mixed]
    if faults:
        lines = "\n  ".join(sorted(faults))
        raise ValueError(
            f"{weights.name} does not go with {family}, {net.num_classes} classes, "
            f"head={head!r} (choices: {', '.join(HEADS)}):\n  {lines}"
        )
    return _Match(weights, shapes, found, order, notes)


def _other_heads(table: Mapping[str, tuple[str, ...]], there: Iterable[str]) -> set[str]:
    """Keys of modules beside the body: heads of other tasks, whatever they are called."""
    module = lambda key: key.split(".")[0].rstrip("0123456789")  # noqa: E731
    body = {module(k) for p, keys in table.items() if not p.startswith(HEAD) for k in keys}
    return {k for k in there if module(k) not in body}


def _unpublished(
    family: Architecture, table: Mapping[str, tuple[str, ...]], there: Mapping[str, Any]
) -> set[str]:
    """Variables between body and head of which the file has none: some tasks do without."""
    names = {p for p in table if p.split("/")[1] in family.before_head}
    return set() if there.keys() & {k for p in names for k in table[p]} else names


def _class_axes(net: Net, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Path of each variable that grows with the number of classes -> the axis along which."""
    larger = _shapes(dataclasses.replace(net, num_classes=net.num_classes + 1))
    return {
        name: axis
        for name, shape in shapes.items()
        for axis, (few, many) in enumerate(zip(shape, larger[name]))
        if few != many
    }


def _adapted(net: Net, name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    made = net.architecture.adapt(name.split("/", 1)[1], array, shape)
    return made if made is not None and made.shape == shape else None


def to_published(net: Net, variables: Mapping[str, Any], dialect: int = 0) -> dict[str, np.ndarray]:
    """Variables (or gradients shaped like them) under published keys, in the published layout."""
    table = _key_table(_shapes(net), net.architecture.published_names()[dialect])
    arrays = leaves(variables).items()
    return joined({table[path][0]: _theirs(path, np.asarray(x)) for path, x in arrays})


def save(
    net: Net,
    variables: Mapping[str, Any],
    folder: types.Path,
    label_names: Sequence[str],
    encoder: Encoder | None = None,
) -> None:
    """Writes model.safetensors, config.json and the encoder's files: what transformers loads.

    The folder may be in a bucket. Raises FileExistsError where it holds weights, ValueError for a
    net that has no published form or for another number of labels.
    """
    if len(label_names) != net.num_classes:
        raise ValueError(f"{len(label_names)} labels {label_names} for {net.num_classes} classes")
    if there := sorted(folder.glob("*.safetensors")):
        raise FileExistsError(f"{there[0]} is there already: give a folder without weights")
    config = net.architecture.to_config() | {
        "id2label": {str(i): name for i, name in enumerate(label_names)},
        "label2id": {name: i for i, name in enumerate(label_names)},
    }
    tensors = {
        k: np.ascontiguousarray(v, np.float32) for k, v in to_published(net, variables).items()
    }
    counters = [k for k in tensors if k.endswith(".running_var")]  # PyTorch's, of batches seen
    tensors |= {
        k.replace("running_var", "num_batches_tracked"): np.zeros((), np.int64) for k in counters
    }
    with buckets.filled(folder) as near:
        (near / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        if encoder is not None:
            encoder.save(near)
        save_file(tensors, near / "model.safetensors", metadata={"format": "pt"})


def architecture_from_config(path: str | Path, keys: Iterable[str] = ()) -> Architecture:
    """The architecture that a config.json describes; `path` is the file or its folder.

    `keys` are those of the weights, where they are known: they tell the family where the config
    does not, and more (see `Architecture.from_config`). Raises UnknownName for a model type that no
    family has, ValueError for an unknown variant, or where nothing tells the family.
    """
    keys = [*keys]
    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    config = hub.read_json(file)
    known = {n: registry.plugin("models", n) for n in registry.available("models")}
    types = {model_type: f for f in known.values() for model_type in f.model_types}
    model_type, kinds = config.get("model_type"), families(keys)
    if model_type is None and len(kinds) != 1:
        raise ValueError(
            f"{file} has no model_type, and {len(keys)} keys of weights are those of "
            f"{' and '.join(kinds) or 'no family'}; choices: {', '.join(known)}"
        )
    if model_type not in (None, *types):
        raise UnknownName(str(model_type), f"model_type in {file}:", types)
    family = types[model_type] if model_type is not None else next(iter(kinds.values()))
    return family.from_config(config, keys)


def _key_table(paths: Iterable[str], names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Our path of each variable -> the keys that it may have in a file."""
    table = {}
    for path in paths:
        alone = path.split("/", 1)[1]
        module, variable = alone.rsplit("/", 1)
        usual = VARIABLES.get(variable, ())
        table[path] = (
            (names[alone],)
            if alone in names
            else tuple(key_of(name, v) for name in names[module].split("|") for v in usual)
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


def _blank(shape: tuple[int, ...]) -> np.ndarray:
    """An array of a shape that takes no memory."""
    return np.broadcast_to(np.False_, shape)


def _place(array: np.ndarray | None, like: Any) -> Any:
    """`array` where `like` is committed to be; `like` itself where there is none."""
    if array is None:
        return like
    return jax.device_put(array, like.sharding if getattr(like, "committed", False) else None)


def _shapes(net: Net) -> dict[str, tuple[int, ...]]:
    return {path: leaf.shape for path, leaf in leaves(net.variable_shapes()).items()}
