"""Files of published weights: how a model's config names them, where they are, what is in them.

Only safetensors are read (and their headers alone until the numbers are wanted): other formats are
pickled, and to load a pickle is to run whatever code it holds.
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from fairkd_jax import hub
from fairkd_jax.registry import UnknownName

HEADS = ("take", "fresh")
INDEX = "model.safetensors.index.json"  # of weights in several files
WRAPPER = r"((module|_orig_mod|model)\.)*"  # of DataParallel, torch.compile, trainers
PART = re.compile(r"(.+)\[(\d+)/(\d+)\]")  # "qkv.weight[1/3]": the second third of its rows
PICKLED = (".bin", ".pt", ".pth", ".th", ".ckpt", ".pkl")


@dataclasses.dataclass(frozen=True)
class Start:
    """What a model's config says of the published weights that its net starts from."""

    pretrained: str  # folder, .safetensors file, or hub name
    head: str = "take"  # the task head of the weights is taken, or left for a fresh one
    label_map: Mapping[str, str] = dataclasses.field(default_factory=dict)  # name there: label here

    def __post_init__(self):
        check_head(self.head)
        if self.label_map and self.head != "take":
            raise ValueError(
                f"model option label_map = {self.label_map} says what the labels of the weights' "
                f"head mean, but head = {self.head!r} does not take it: leave one of them out"
            )


def check_head(head: str) -> None:
    """Raises UnknownName for another way with the head than taking it or leaving a fresh one."""
    if head not in HEADS:
        raise UnknownName(head, "model option head:", HEADS)


def split(spec: Mapping[str, Any]) -> tuple[dict[str, Any], Start | None]:
    """A model's config in two: what describes the net, and what it starts from (None: afresh).

    Raises ValueError for a head or its labels without weights, or for labels of a head that is not
    taken, UnknownName for an unknown way with the head.
    """
    options = [f.name for f in dataclasses.fields(Start)]
    net = {k: v for k, v in spec.items() if k not in options}
    start = {k: spec[k] for k in options if spec.get(k)}
    if "label_map" in start:
        start["label_map"] = {str(k): str(v) for k, v in start["label_map"].items()}
    if start and "pretrained" not in start:
        told = ", ".join(f"{k} = {v!r}" for k, v in start.items())
        raise ValueError(
            f"model {spec.get('name')!r}: {told} says what becomes of the head of "
            "published weights, but there is no 'pretrained' to say which weights"
        )
    return net, Start(**start) if start else None


@dataclasses.dataclass(frozen=True)
class Weights:
    """The safetensors files of one net, and what the config.json beside them says."""

    name: str  # as it was asked for
    files: tuple[Path, ...]
    config: Mapping[str, Any] | None

    @property
    def folder(self) -> Path:
        """Where the files are, and their tokenizer if there is one."""
        return self.files[0].parent

    def reads(self) -> dict[str, Path]:
        """All files, by name."""
        beside = self.folder / "config.json"
        return {f.name: f for f in (*self.files, beside) if f.is_file()}

    def headers(self, parts: Iterable[str] = ()) -> dict[str, tuple[str, tuple[int, ...]]]:
        """{key: (type of number, "F32", shape)}, without `wrapper`; no numbers are read.

        A tensor of which `parts` name some, "qkv.weight[1/3]", is told by these parts instead.
        Raises ValueError for a broken file.
        """
        start = len(self.wrapper)
        found = {key[start:]: about for key, about in self._headers.items()}
        told = dict(found)
        for part in filter(None, map(PART.fullmatch, parts)):
            kind, (rows, *rest) = found.get(part[1], ("", (1,)))
            if rows % int(part[3]) == 0:
                told.pop(part[1], None)
                told[part[0]] = kind, (rows // int(part[3]), *rest)
        return told

    @functools.cached_property
    def wrapper(self) -> str:
        """What modules around the net put before every key: "module.", "_orig_mod.model." """
        return next(iter(self._wrapped)) if len(self._wrapped) == 1 else ""

    @property
    def mixed(self) -> str:
        """What to say of wrappers that stand before a part of the keys; "" where none does so."""
        if len(self._wrapped) < 2:
            return ""
        told = [
            f"{start!r} before {len(keys)} of them" if start else f"nothing before {some(keys)}"
            for start, keys in self._wrapped.items()
        ]
        return f"wrapped in part: the keys have {', '.join(told)}; give all of them the same"

    @functools.cached_property
    def _wrapped(self) -> dict[str, list[str]]:
        """The keys by what stands before them."""
        found = collections.defaultdict(list)
        for key in self._headers:
            found[re.match(WRAPPER, key).group()].append(key)
        return dict(found)

    @functools.cached_property
    def _headers(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        found = {}
        for file in self.files:
            with _opened(file) as tensors:
                slices = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118
                found |= {k: (s.get_dtype(), tuple(s.get_shape())) for k, s in slices.items()}
        return found

    def read(self, keys: Collection[str]) -> dict[str, np.ndarray]:
        """The tensors of some keys, or parts of tensors, as float32."""
        found, theirs = {}, collections.defaultdict(list)
        for key in keys:
            theirs[self.wrapper + _whole(key)].append(key)
        for file in self.files:
            with _opened(file) as tensors:
                for there in theirs.keys() & {*tensors.keys()}:
                    array = tensors.get_tensor(there).astype(np.float32)
                    found |= {key: _part(array, key) for key in theirs[there]}
        return found


def key_of(module: str, variable: str) -> str:
    """The key of a module's variable; a part of a module, "qkv[1/3]", has parts of variables."""
    stem, bracket, part = module.partition("[")
    return f"{stem}.{variable}{bracket}{part}"


def joined(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors by their keys, with those put together that are there in parts."""
    found = collections.defaultdict(dict)
    for key, tensor in tensors.items():
        found[_whole(key)][key] = tensor
    return {
        key: parts[key] if key in parts else np.concatenate([parts[k] for k in sorted(parts)])
        for key, parts in found.items()
    }


def _whole(key: str) -> str:
    part = PART.fullmatch(key)
    return part[1] if part else key


def _part(array: np.ndarray, key: str) -> np.ndarray:
    part = PART.fullmatch(key)
    return np.split(array, int(part[3]))[int(part[2])] if part else array


def some(names: Collection[str]) -> str:
    """The first names, and how many there are more."""
    first = ", ".join(sorted(names)[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="np")
    except SafetensorError as error:
        told = hub.instead(file) or f": {error}"
        raise ValueError(f"{file} is no safetensors file{told}") from error


def find(name: str | Path) -> Weights:
    """The weights in a folder, in a .safetensors file, or under a hub name.

    Raises FileNotFoundError where there are none, ValueError where there are two of them, or where
    they are pickled; both name what was found.
    """
    path = hub.resolve(str(name))
    if path.is_dir():
        files = _files(path)
    elif path.suffix == ".safetensors":
        files = (path,)
    else:
        raise ValueError(f"{path} is no .safetensors file{_refusal([path.name])}")
    beside = files[0].parent / "config.json"
    config = hub.read_json(beside) if beside.is_file() else None
    return Weights(str(name), files, config)


def _files(folder: Path) -> tuple[Path, ...]:
    index, found = folder / INDEX, sorted(folder.glob("*.safetensors"))
    shards = []
    if index.is_file():
        parts = hub.read_json(index).get("weight_map")
        if not isinstance(parts, dict):
            raise ValueError(f"{index} has no 'weight_map' that names files: fetch it again")
        shards = sorted({folder / n for n in parts.values()})
        if lost := [s.name for s in shards if not s.is_file()]:
            raise FileNotFoundError(f"{index} names files that are not there: {', '.join(lost)}")
    choices = [(f,) for f in found if f not in shards] + ([tuple(shards)] if shards else [])
    if len(choices) > 1:
        names = ", ".join(c[0].name if len(c) == 1 else INDEX for c in choices)
        raise ValueError(f"{folder} holds more than one set of weights, name the file: {names}")
    if not choices:
        names = sorted(p.name for p in folder.iterdir())
        raise FileNotFoundError(
            f"no model.safetensors in {folder}, which holds {', '.join(names) or 'nothing'}"
            + _refusal(names)
        )
    return choices[0]


def _refusal(names: Collection[str]) -> str:
    pickled = [n for n in names if n.endswith(PICKLED)]
    if not pickled:
        return ""
    return (
        f"; {', '.join(pickled)} is pickled, and to load a pickle is to run whatever code it "
        "holds: convert it to safetensors where you trust it"
    )


def check_variant(config: Mapping[str, Any], only: Mapping[str, Any], place: str) -> None:
    """Raises ValueError that lists the entries of a config with another value than the only one."""
    other = {k: config[k] for k, known in only.items() if config.get(k, known) != known}
    if told := [f"{k} = {value!r}; only {only[k]!r} is there" for k, value in other.items()]:
        raise ValueError(f"{place}: {', '.join(told)}")
