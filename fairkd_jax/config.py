"""What can be asked for: frozen dataclasses that hold every default, read once from a `ConfigDict`.

A config file returns a `ConfigDict` of plain values; `parse` turns it into an `Experiment` or a
`Study`, rejects unknown keys with the nearest known one, and nothing downstream sees the
`ConfigDict` again. A plugin is a dict: {"name": "group_dro", "step_size": 0.01}.
"""

import dataclasses
import hashlib
import json
import types
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from fairkd_jax import registry
from fairkd_jax.recipe import SELECTION_RULES as SELECTION_RULES
from fairkd_jax.recipe import Optim, Role, Teacher, Train, Transfer, later
from fairkd_jax.registry import UnknownName

FORMAT = 3  # raised when the meaning of a stage changes: older stages are then trained anew

Plugin = Mapping[str, Any]


def _field(**default: Any) -> Any:
    return dataclasses.field(default_factory=lambda: dict(default))


def _plugin(room: str, **default: Any) -> Any:
    """A field that holds a plugin of a room, or several by name."""
    return dataclasses.field(default_factory=lambda: dict(default), metadata={"room": room})


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set, the views that nets read of it, and how training draws from it."""

    set: Plugin = _plugin("sets", name="colored_digits")
    views: Mapping[str, Plugin] = _plugin("views", image={"name": "image"})
    split: str = "train"  # drawn from in training
    sampler: str = "natural"  # see data/samplers.py
    fraction: float = later(1.0)  # of the split "train" that is kept: see data/strength.py
    group_floor: int = later(0)  # examples of each group that are kept at least, where it has them
    correlation: float | None = later(None)  # share of each label whose shortcut is right
    label_noise: float = later(0.0)  # share of each label that carries another
    strength_seed: int | None = later(None)  # of what these draw; None: that of the run
    augment: Mapping[str, Plugin] = later({}, room="augment")  # by name; see data/augmentation.py
    padding: str = later("longest")  # of texts: longest | bucket | fixed; see data/padding.py
    resident: bool = later(False, place=True)  # the split lives on the devices: data/resident.py


@dataclasses.dataclass(frozen=True)
class Mix:
    """How task loss and distillation loss meet (`task_weight * task + kd_weight * KD`).

    scope "total": the debiasing method reduces the sum; "task": it reduces the task loss, and the
    mean distillation loss is added outside.
    """

    task_weight: float = 1.0
    kd_weight: Any = dataclasses.field(default=1.0, metadata={"or_mapping": True})  # or a schedule
    scope: str = "total"
    teachers: Mapping[str, Any] = later({}, unsaid=True)  # weights of named ones; left out: 1.0


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Splits of a set to score; without a set, splits of the one that was trained on."""

    set: Plugin | None = dataclasses.field(default=None, metadata={"room": "sets"})
    splits: tuple[str, ...] = ("test",)
    batch_size: int = 512


@dataclasses.dataclass(frozen=True)
class Compare:
    """Layers of two nets to compare inside, on aligned and on conflicting examples of a split."""

    split: str = "test"
    first: str = ""  # regular expression over the first net's tap names; "": no comparison
    second: str = ""
    examples: int = 512  # at most, of each kind
    batch_size: int = 256


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A debiased teacher, the same student without it (baseline) and with it (distilled)."""

    data: Data = Data()
    teacher: Role = Role()
    student: Role = Role()
    debias: Plugin = _field(name="erm")
    distilled_debias: Plugin | None = None  # while distilling; None: the same as `debias`
    distill: tuple[Plugin, ...] = dataclasses.field(
        default=({"name": "logits"},), metadata={"one_or_more": True}
    )
    mix: Mix = Mix()
    transfer: Transfer | None = None  # the distilled net starts from the teacher; None: fresh
    evaluate: Mapping[str, Evaluation] = dataclasses.field(
        default_factory=lambda: {"in_domain": Evaluation()}, metadata={"values": Evaluation}
    )
    compare: Compare = Compare()
    seed: int = 0
    teachers: Mapping[str, Teacher] = later({}, unsaid=True, values=Teacher)
    # by name, several or one, in the place of `teacher`; {}: that one


@dataclasses.dataclass(frozen=True)
class Study:
    """Experiments that differ along axes, each repeated over seeds.

    `axes` maps an axis name to its values. A value is a dict of dotted overrides of the experiment
    ({"teacher.model.preset": "18", "student.model.preset": "tiny"}), or anything else where the
    axis name is itself the dotted key ("mix.scope": ["total", "task"]).
    """

    name: str = "study"
    experiment: Experiment = Experiment()
    axes: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    seeds: int = 3  # how many: 0, 1, 2, ...
    headline: tuple[str, ...] = ("in_domain/test/worst_group_accuracy",)  # metrics put first


@dataclasses.dataclass(frozen=True)
class TrainStage:
    """Trains one net. Inputs: teachers (live), tables by name, "init" (weights to start from)."""

    data: Data
    model: Plugin = dataclasses.field(metadata={"room": "models"})
    debias: Plugin
    distill: tuple[Plugin, ...] = dataclasses.field(metadata={"one_or_more": True})
    mix: Mix
    optim: Optim
    train: Train
    seed: int


@dataclasses.dataclass(frozen=True)
class TransferStage:
    """Makes weights to start from out of those of input "net", and fresh ones for the rest."""

    data: Data
    model: Plugin = dataclasses.field(metadata={"room": "models"})
    transfer: Transfer
    seed: int


@dataclasses.dataclass(frozen=True)
class BorrowStage:
    """Copies the net of a finished train stage of another work folder; see `study/borrow.py`."""

    data: Data  # of the study that borrows
    model: Plugin = dataclasses.field(metadata={"room": "models"})
    stage: str = dataclasses.field(metadata={"place": True})
    workdir: str = dataclasses.field(metadata={"place": True})


@dataclasses.dataclass(frozen=True)
class TableStage:
    """Asks the net of input "net" about every example of a split and writes columns by id."""

    columns: tuple[str, ...]  # see data/tables.py: logits, log_probs, features, mistake, loss
    split: str = "train"
    batch_size: int = 512
    augment: Mapping[str, Plugin] = later({}, room="augment")  # whose extra examples it holds too


@dataclasses.dataclass(frozen=True)
class EvaluateStage:
    """Counts by group of the net of input "net" on one split."""

    set: Plugin | None = dataclasses.field(metadata={"room": "sets"})  # None: the net's own
    split: str
    batch_size: int


@dataclasses.dataclass(frozen=True)
class CompareStage:
    """CKA of the layers of inputs "first" and "second"."""

    compare: Compare


@dataclasses.dataclass(frozen=True)
class Stage:
    """Work that is done once.

    Its identity is the hash of its config, of the content of the files that it reads, and of its
    inputs' identities. Where files lie is no part of it.
    """

    kind: str  # train | transfer | borrow | table | evaluate | compare
    config: Any  # the dataclass above
    inputs: Mapping[str, "Stage"] = dataclasses.field(default_factory=dict)
    reads: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # name of a file -> digest of its content: put in by `study.reads.sealed`

    @cached_property
    def identity(self) -> str:
        """12 hexadecimal digits."""
        inputs = {k: v.identity for k, v in sorted(self.inputs.items())}
        content = [FORMAT, self.kind, content_of(self.config), dict(self.reads), inputs]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def change(self, updates: Mapping[str, Any]) -> "Stage":
        """The same stage with dotted config keys replaced: {"train.steps": 100}."""
        return dataclasses.replace(self, config=update(self.config, updates))

    def hang(self, **inputs: "Stage | None") -> "Stage":
        """The same stage with inputs added, or removed where None."""
        merged = {k: v for k, v in (dict(self.inputs) | inputs).items() if v is not None}
        return dataclasses.replace(self, inputs=merged)


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
    if "or_mapping" in field.metadata and isinstance(value, Mapping):
        return dict(value)
    if isinstance(default, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{place} = {value!r}: expected a dict such as {default}")
        return dict(value)
    return registry.check_type(value, default, place)


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
        if rest and old is None and (made := _dataclass_of(fields[key])[0]):
            old = made()
        inner = (
            update(old, {rest: new}, f"{place}.{key}")
            if rest
            else _parse_field(fields[key], new, f"{place}.{key}")
        )
        value = dataclasses.replace(value, **{key: inner})
    return value


KINDS = {
    "train": TrainStage,
    "transfer": TransferStage,
    "borrow": BorrowStage,
    "table": TableStage,
    "evaluate": EvaluateStage,
    "compare": CompareStage,
}
