"""A name is a plugin: `{"name": "group_dro"}` loads `fairkd_jax/debias/group_dro.py`.

So does the name of an entry point of the group `fairkd_jax.debias`, in any installed package, and
the dotted name of any module that Python finds: `{"name": "my_project.methods.mine"}`. Whoever
wrote it, a plugin's module defines exactly one class that derives from its room's contract. There
is no table to edit, and a miss lists what is there.
"""

import dataclasses
import difflib
import functools
import importlib
import importlib.metadata
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

ROOMS = {  # room: (package that holds the plugins, module of the contract, name of the contract)
    "sets": ("fairkd_jax.data.sets", "fairkd_jax.data.dataset", "DataSet"),
    "views": ("fairkd_jax.data.views", "fairkd_jax.data.dataset", "View"),
    "augment": ("fairkd_jax.data.augment", "fairkd_jax.data.augmentation", "Augmentation"),
    "models": ("fairkd_jax.models", "fairkd_jax.models.net", "Architecture"),
    "debias": ("fairkd_jax.debias", "fairkd_jax.debias.base", "Debiaser"),
    "bias": ("fairkd_jax.debias.bias", "fairkd_jax.debias.bias.base", "Bias"),
    "infer": ("fairkd_jax.debias.infer", "fairkd_jax.debias.inference", "Inference"),
    "distill": ("fairkd_jax.distill", "fairkd_jax.distill.base", "Distiller"),
    "decide": ("fairkd_jax.evaluation.decide", "fairkd_jax.evaluation.decision", "Decision"),
    "similarity": (
        "fairkd_jax.representation.similarity",
        "fairkd_jax.representation.measure",
        "Measure",
    ),
    "scores": ("fairkd_jax.circuits.scores", "fairkd_jax.circuits.score", "Score"),
}
DOTTED = "; or the dotted name of a module of yours, 'my_project.methods.mine'"


def _near(value: str, choices: Iterable[str]) -> str:
    near = difflib.get_close_matches(value, [*choices], n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


class UnknownName(ValueError):
    """A name that is not there; the message gives the value, the place and the choices."""

    def __init__(self, value: str, place: str, choices: Iterable[str], more: str = ""):
        choices = sorted(choices)
        listed = ", ".join(choices) or "none"
        super().__init__(
            f"unknown {place} {value!r}.{_near(value, choices)} Choices: {listed}{more}"
        )


class Faulty(ValueError):
    """A plugin whose code fails or does not keep the contract; the message gives file and line."""


def plugin(room: str, name: str) -> type:
    """The class that a name stands for: of a file of the room, an entry point, or a dotted module.

    Raises UnknownName where nothing has the name, Faulty where two things have it, or for code
    that fails when it is imported or that does not keep the room's contract.
    """
    module, chosen = _locate(room, str(name))
    return _class_of(room, str(name), _imported(room, str(name), module), chosen)


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
    """The names of all plugins of a room that are files of it."""
    package = ROOMS[room][0]
    return tuple(
        f for f in files(room) if _classes_in(room, importlib.import_module(f"{package}.{f}"))
    )


def choices(room: str) -> tuple[str, ...]:
    """All names of plugins without a dot: files of the room, and entry points."""
    return tuple(sorted({*available(room), *(e.name for e in _entry_points(room, (*sys.path,)))}))


@functools.lru_cache(maxsize=32)
def _entry_points(room: str, path: tuple[str, ...]) -> tuple[importlib.metadata.EntryPoint, ...]:
    """Those of all packages that Python finds now; `path` is where it looks."""
    return tuple(importlib.metadata.entry_points(group=f"fairkd_jax.{room}"))


def _locate(room: str, name: str) -> tuple[str, str]:
    """(module, class in it or "": its only one) of a plugin.

    Raises UnknownName for a name that nothing has, Faulty for one that two have.
    """
    own = f"{ROOMS[room][0]}.{name}"
    found = {f"the file {own}": (own, "")} if name in files(room) else {}
    for entry in _entry_points(room, (*sys.path,)):
        if entry.name == name:
            module, _, chosen = entry.value.partition("[")[0].partition(":")
            package = entry.dist.name if entry.dist else "?"
            told = f"the entry point {name} = {entry.value} of the package {package}"
            found[told] = (module.strip(), chosen.strip())
    if len(found) > 1:
        raise Faulty(
            f"{room} plugin {name!r} could be {' or '.join(found)}: uninstall one, or name the "
            "module that you mean, with its dots"
        )
    if found:
        return next(iter(found.values()))
    if "." not in name or not all(part.isidentifier() for part in name.split(".")):
        raise UnknownName(name, f"{room} plugin", choices(room), DOTTED)
    return name, ""


def _imported(room: str, name: str, module: str) -> Any:
    """The module. Raises UnknownName where Python finds none, Faulty where its code fails."""
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            raise _not_found(room, name, missing) from error
        raise Faulty(
            f"{room} plugin {name!r} cannot be imported: {line_of(error, module)}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _not_found(room: str, name: str, missing: str) -> UnknownName:
    """Says which part of a dotted name is not there, and where Python looked for it."""
    above, _, part = missing.rpartition(".")
    path = getattr(sys.modules.get(above), "__path__", ()) if above else sys.path
    folders = [folder or os.getcwd() for folder in path]
    where = f"looked in {', '.join(folders)}" if folders else f"found a file for {above!r}"
    there = {m.name for m in pkgutil.iter_modules(folders)}
    there |= {f.name for d in folders if os.path.isdir(d) for f in os.scandir(d) if f.is_dir()}
    more = f". There is no module {missing!r}: Python {where}.{_near(part, there)}"
    return UnknownName(name, f"{room} plugin", choices(room), more)


def line_of(error: BaseException, module: str) -> str:
    """Where an error came from: the last line in the module, else the last one."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    steps = [
        (f.f_globals.get("__name__"), f.f_code.co_filename, n)
        for f, n in traceback.walk_tb(error.__traceback__)
    ]
    steps = [s for s in steps if not str(s[0]).startswith(("importlib", __name__))] or steps
    inside = [s for s in steps if s[0] == module] or steps
    return f"{inside[-1][1]}, line {inside[-1][2]}"


@functools.cache
def source_of(cls: type) -> str:
    """The file and line where a class is defined, as a phrase."""
    try:
        return f"{inspect.getsourcefile(cls)}, line {inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        return f"module {cls.__module__}"


def _contract(room: str) -> type:
    return getattr(importlib.import_module(ROOMS[room][1]), ROOMS[room][2])


def _classes_in(room: str, module: Any) -> list[type]:
    contract = _contract(room)
    return [
        v
        for v in vars(module).values()
        if isinstance(v, type)
        and issubclass(v, contract)
        and v is not contract
        and v.__module__ == module.__name__
    ]


def _class_of(room: str, name: str, module: Any, chosen: str) -> type:
    """The plugin that a module defines. Raises Faulty unless it is one, and keeps the contract."""
    contract = _contract(room)
    named = getattr(module, chosen, None) if chosen else None
    found = [named] if isinstance(named, type) and issubclass(named, contract) else []
    found = found if chosen else _classes_in(room, module)
    if len(found) != 1:
        file = getattr(module, "__file__", None) or module.__name__
        told = " and ".join(f"{v.__name__} ({source_of(v)})" for v in found) or "none"
        raise Faulty(
            f"{room} plugin {name!r}: {file}, line 1: the module must define one class "
            f"{chosen or 'that derives'} from {contract.__module__}.{contract.__name__}, and "
            f"defines {told}. Choices: {', '.join(choices(room))}"
        )
    if faults := _faults(contract, found[0]):
        raise Faulty(f"{room} plugin {name!r}: {source_of(found[0])}: {'; '.join(faults)}")
    return found[0]


@functools.cache
def _faults(contract: type, cls: type) -> tuple[str, ...]:
    """What a class lacks of its contract, a phrase each."""
    asked = [*getattr(cls, "__abstractmethods__", ())]
    asked += [n for n in inspect.get_annotations(contract) if not hasattr(cls, n)]
    faults = [f"{cls.__name__} lacks {', '.join(sorted(asked))}"] if asked else []
    marks = [m for m in DATACLASSES if m in vars(contract) and m not in vars(cls)]
    if marks:
        faults.append(f"{cls.__name__} needs the decorator {DATACLASSES[marks[-1]]}")
    return tuple(faults)


DATACLASSES = {  # what a decorator leaves on the class itself
    "__dataclass_params__": "@dataclasses.dataclass(frozen=True)",
    "_flax_dataclass": "@flax.struct.dataclass",
}


def build(room: str, spec: Mapping[str, Any]) -> Any:
    """The plugin that `{"name": ..., option: value}` describes, a dataclass of options.

    Raises UnknownName for an unknown name or option, ValueError for an option of a wrong type, and
    Faulty as `plugin` does, or for a class that fails as it is made.
    """
    options = dict(spec)
    if "name" not in options:
        raise ValueError(f"a {room} plugin needs a 'name'; got only {sorted(options)}")
    name = options.pop("name")
    cls = plugin(room, name)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    where = "" if is_ours(cls) else f" ({source_of(cls)})"
    for key, value in options.items():
        if key not in fields:
            raise UnknownName(key, f"option of {room} plugin {name!r}{where}:", fields)
        default, place = fields[key].default, f"{room}.{name}.{key}{where}"
        if isinstance(default, float) and isinstance(value, Mapping) and hasattr(cls, "schedule"):
            options[key] = cls.schedule(value, place)
            continue
        value = freeze(value) if isinstance(default, tuple) else value
        options[key] = check_type(value, default, place)
    try:
        return cls(**options)
    except (ValueError, OSError):  # what a plugin itself says of its options
        raise
    except Exception as error:
        raise Faulty(
            f"{room} plugin {name!r} cannot be made: {line_of(error, cls.__module__)}: "
            f"{type(error).__name__}: {error}"
        ) from error


def is_ours(cls: type) -> bool:
    """Is a plugin a file of this project?"""
    return cls.__module__.startswith("fairkd_jax.")


def places(room: str, spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Options of a plugin that say where files lie, and so are no part of what it does."""
    return getattr(plugin(room, str(spec.get("name", ""))), "places", ())


def unsaid(room: str, spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Options of a plugin marked `recipe.later` that are at their default: as if not there."""
    known = defaults(room, str(spec.get("name", "")))
    fields = dataclasses.fields(plugin(room, known["name"]))
    later = {f.name: known[f.name] for f in fields if "later" in f.metadata}
    return tuple(k for k, default in later.items() if k in spec and spec[k] == default)


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
