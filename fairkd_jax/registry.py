"""A file name is a plugin: `{"name": "group_dro"}` loads `fairkd_jax/debias/group_dro.py`.

A plugin file defines exactly one class that derives from its room's contract. There is no table to
edit: a new file is found by its name, and a miss lists the files that exist.
"""

import dataclasses
import difflib
import functools
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from typing import Any

ROOMS = {  # room: (package that holds the plugins, module of the contract, name of the contract)
    "sets": ("fairkd_jax.data.sets", "fairkd_jax.data.dataset", "DataSet"),
    "views": ("fairkd_jax.data.views", "fairkd_jax.data.dataset", "View"),
    "models": ("fairkd_jax.models", "fairkd_jax.models.net", "Architecture"),
    "debias": ("fairkd_jax.debias", "fairkd_jax.debias.base", "Debiaser"),
    "distill": ("fairkd_jax.distill", "fairkd_jax.distill.base", "Distiller"),
}


class UnknownName(ValueError):
    """A name that is not there; the message gives the value, the place and the choices."""

    def __init__(self, value: str, place: str, choices: Iterable[str]):
        choices = sorted(choices)
        near = difflib.get_close_matches(value, choices, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(
            f"unknown {place} {value!r}.{hint} Choices: {', '.join(choices) or 'none'}"
        )


def plugin(room: str, name: str) -> type:
    """The class that the file `name` of a room defines; UnknownName if there is no such file."""
    package = ROOMS[room][0]
    if name not in files(room):
        raise UnknownName(name, f"{room} plugin", available(room))
    found = _class_in(room, importlib.import_module(f"{package}.{name}"))
    if found is None:
        raise UnknownName(name, f"{room} plugin", available(room))
    return found


def name_of(plugin: type) -> str:
    """The name of a plugin: that of its file."""
    return plugin.__module__.rpartition(".")[2]


@functools.cache
def files(room: str) -> tuple[str, ...]:
    """Every file of a room, plugin or not."""
    package = importlib.import_module(ROOMS[room][0])
    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg))


@functools.cache
def available(room: str) -> tuple[str, ...]:
    """The names of all plugins of a room."""
    package = ROOMS[room][0]
    return tuple(
        f for f in files(room) if _class_in(room, importlib.import_module(f"{package}.{f}"))
    )


def _class_in(room: str, module: Any) -> type | None:
    contract = getattr(importlib.import_module(ROOMS[room][1]), ROOMS[room][2])
    found = [
        v
        for v in vars(module).values()
        if isinstance(v, type)
        and issubclass(v, contract)
        and v is not contract
        and v.__module__ == module.__name__
    ]
    if len(found) > 1:
        names = ", ".join(v.__name__ for v in found)
        raise TypeError(f"{module.__name__} defines {names}: a plugin file defines one plugin")
    return found[0] if found else None


def build(room: str, spec: Mapping[str, Any]) -> Any:
    """The plugin that `{"name": ..., option: value}` describes, a dataclass of options.

    Raises UnknownName for an unknown name or option, ValueError for an option of a wrong type.
    """
    options = dict(spec)
    if "name" not in options:
        raise ValueError(f"a {room} plugin needs a 'name'; got only {sorted(options)}")
    name = options.pop("name")
    cls = plugin(room, name)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key, value in options.items():
        if key not in fields:
            raise UnknownName(key, f"option of {room} plugin {name!r}:", fields)
        default = fields[key].default
        value = freeze(value) if isinstance(default, tuple) else value
        options[key] = check_type(value, default, f"{room}.{name}.{key}")
    return cls(**options)


def places(room: str, spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Options of a plugin that say where files lie, and so are no part of what it does."""
    return getattr(plugin(room, str(spec.get("name", ""))), "places", ())


def freeze(value: Any) -> Any:
    """Lists as tuples and mappings as sorted tuples of pairs, all the way down.

    So that an option whose default is a tuple may be static: it hashes. Pairs read back by `dict`.
    """
    if isinstance(value, Mapping):
        return tuple((k, freeze(v)) for k, v in sorted(value.items()))
    return tuple(freeze(v) for v in value) if isinstance(value, list | tuple) else value


def defaults(room: str, name: str) -> dict[str, Any]:
    """`{"name": name, **every option with its default}`: what a config file starts from."""
    fields = dataclasses.fields(plugin(room, name))
    return {"name": name} | {
        f.name: f.default if f.default is not dataclasses.MISSING else f.default_factory()
        for f in fields
        if f.init
    }


def check_type(value: Any, default: Any, place: str) -> Any:
    """`value`, cast where nothing is lost (int -> float, list -> tuple); else ValueError."""
    if default is dataclasses.MISSING or default is None or value is None:
        return tuple(value) if isinstance(value, list) else value
    if isinstance(default, bool) or isinstance(value, bool):
        good = isinstance(default, bool) and isinstance(value, bool)
    elif isinstance(default, float):
        good = isinstance(value, int | float)
        value = float(value) if good else value
    elif isinstance(default, tuple):
        good = isinstance(value, list | tuple)
        value = tuple(value) if good else value
    else:
        good = isinstance(value, type(default))
    if not good:
        raise ValueError(f"{place} = {value!r}: expected a {type(default).__name__}")
    return value
