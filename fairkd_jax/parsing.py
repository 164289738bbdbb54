"""Dataclasses from what configs and files say, and back.

A field's metadata says what else it holds: "room", a plugin of that room, or several by name;
"values", dataclasses by name; "each", dataclasses in their order; "rest", keys of no field of their
own; "one_or_more"; "or_mapping".
And what of it is told: "place", only where files lie, so no part of an identity; "later", none at
its default; "unsaid", not even written while it is empty.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from fairkd_jax import registry
from fairkd_jax.recipe import Optim
from fairkd_jax.registry import UnknownName


def as_dict(value: Any) -> Any:
    """Dataclasses, mappings and tuples as plain dicts and lists (what JSON can say)."""
    if dataclasses.is_dataclass(value):
        told = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        silent = {f.name for f in dataclasses.fields(value) if "unsaid" in f.metadata}
        return {k: as_dict(v) for k, v in told.items() if k not in silent or v}
    if isinstance(value, Mapping):
        return {k: as_dict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_dict(v) for v in value]
    return value


def content_of(value: Any) -> Any:
    """`as_dict` without what only says where files lie."""
    if not dataclasses.is_dataclass(value):
        return as_dict(value)
    value, found = value.settled() if isinstance(value, Optim) else value, {}
    for field in dataclasses.fields(value):
        if "place" in field.metadata:
            continue
        if "later" in field.metadata and getattr(value, field.name) == _default(field):
            continue  # as before there was such a field
        inner, room = getattr(value, field.name), field.metadata.get("room")
        found[field.name] = _content_of_plugins(room, inner) if room else content_of(inner)
    return found


def _content_of_plugins(room: str, value: Any) -> Any:
    if value is None or not value:
        return value
    if all(isinstance(v, Mapping) for v in value.values()):  # several, by name
        return {k: _content_of_plugins(room, v) for k, v in value.items()}
    left_out = registry.places(room, value) + registry.unsaid(room, value)
    return {k: as_dict(v) for k, v in value.items() if k not in left_out}


def as_config_dict(value: Any) -> ConfigDict:
    """A dataclass with its defaults as a `ConfigDict`: what a config file starts from."""
    made = ConfigDict(_tuples(as_dict(value)), convert_dict=True, allow_dotted_keys=True)
    _say_numbers(made, value)
    return made


def _say_numbers(made: ConfigDict, value: Any) -> None:
    """Flags set only what has a type: a None in the place of a number is told to be of one."""
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            _say_numbers(made[field.name], inner)
        elif "values" in field.metadata:
            for name, one in inner.items():
                _say_numbers(made[field.name][name], one)
        elif inner is None and field.type in (float | None, int | None):
            made[field.name] = placeholder(field.type.__args__[0])


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def parse(cls: type, values: Any, place: str = "config") -> Any:
    """`values` (a mapping, nested) as the dataclass `cls`, which holds the defaults.

    Raises UnknownName for a key that `cls` lacks, ValueError for a value of a wrong type.
    """
    if isinstance(values, cls):
        return values
    if hasattr(values, "to_dict"):  # a ConfigDict; a config file that failed to load raises here
        values = values.to_dict()
    if not isinstance(values, Mapping):
        raise ValueError(f"{place} = {values!r}: expected keys {[*_fields(cls)]}")
    fields = _fields(cls)
    known = {}
    for key, value in _gathered(values, fields).items():
        if key not in fields:
            raise UnknownName(key, f"key in {place}:", _choices(fields))
        known[key] = _parse_field(fields[key], value, f"{place}.{key}")
    return cls(**known)


def _fields(cls: type) -> dict[str, dataclasses.Field]:
    return {f.name: f for f in dataclasses.fields(cls)}


def _rest(fields: Mapping[str, dataclasses.Field]) -> tuple[str, tuple[str, ...]]:
    """(the field that holds keys of no field of their own, the keys that it may hold)."""
    rest = [(f.name, f.metadata["rest"]()) for f in fields.values() if "rest" in f.metadata]
    return rest[0] if rest else ("", ())


def _choices(fields: Mapping[str, dataclasses.Field]) -> set[str]:
    return {*fields, *_rest(fields)[1]}


def _gathered(values: Mapping[str, Any], fields: Mapping[str, dataclasses.Field]) -> dict[str, Any]:
    """`values`, those that a field holds for others gathered in it."""
    name, keys = _rest(fields)
    held = {k: v for k, v in values.items() if k in keys and k not in fields}
    others = {k: v for k, v in values.items() if k not in held}
    return others | ({name: {**others.get(name, {}), **held}} if held else {})


def _default(field: dataclasses.Field) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def _dataclass_of(field: dataclasses.Field) -> tuple[type | None, bool]:
    """The dataclass that a field of type `X` or `X | None` holds, if any, and whether None may."""
    union = isinstance(field.type, types.UnionType)
    members = field.type.__args__ if union else (field.type,)
    found = [t for t in members if dataclasses.is_dataclass(t)]
    return (found[0] if found else None), type(None) in members


def _parse_field(field: dataclasses.Field, value: Any, place: str) -> Any:
    default = _default(field)
    inner, optional = _dataclass_of(field)
    if inner:
        return None if optional and value is None else parse(inner, value, place)
    if isinstance(value, ConfigDict):
        value = value.to_dict()
    if "values" in field.metadata:
        if not isinstance(value, Mapping):
            raise ValueError(f"{place} = {value!r}: expected a dict by name")
        return {k: parse(field.metadata["values"], v, f"{place}.{k}") for k, v in value.items()}
    if "one_or_more" in field.metadata and isinstance(value, Mapping):
        value = (value,)
    if "room" in field.metadata and not isinstance(value, Mapping | None):
        raise ValueError(f"{place} = {value!r}: expected a dict such as {{'name': ...}}")
    if "or_mapping" in field.metadata and isinstance(value, Mapping):
        return dict(value)
    if isinstance(default, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{place} = {value!r}: expected a dict such as {default}")
        return dict(value)
    value = registry.check_type(value, default, place)
    if "each" in field.metadata:
        made = field.metadata["each"]
        return tuple(parse(made, one, f"{place}.{i}") for i, one in enumerate(value))
    return value


def update(value: Any, updates: Mapping[str, Any], place: str = "config") -> Any:
    """A dataclass with dotted keys replaced. Raises UnknownName for a key that is not there."""
    for dotted, new in updates.items():
        key, _, rest = dotted.partition(".")
        if isinstance(value, Mapping):  # a plugin: its options are checked when it is built
            inner = update(value.get(key, {}), {rest: new}, f"{place}.{key}") if rest else new
            value = {**value, key: inner}
            continue
        fields = _fields(type(value))
        held, keys = _rest(fields)
        if key in keys and key not in fields:
            key, rest = held, dotted
        if key not in fields:
            raise UnknownName(key, f"key in {place}:", _choices(fields))
        old = getattr(value, key)
        if "values" in fields[key].metadata and rest:
            name, _, inside = rest.partition(".")
            if inside and name not in old:
                raise UnknownName(name, f"key in {place}.{key}:", old)
            if inside:
                new = update(old[name], {inside: new}, f"{place}.{key}.{name}")
            rest, new = "", {**old, name: new}
        if rest and isinstance(old, tuple):
            raise ValueError(f"{place}.{key}.{rest}: {key} is a list, to be given whole")
        if rest and old is None and (made := _dataclass_of(fields[key])[0]):
            old = made()
        inner = (
            update(old, {rest: new}, f"{place}.{key}")
            if rest
            else _parse_field(fields[key], new, f"{place}.{key}")
        )
        value = dataclasses.replace(value, **{key: inner})
    return value
