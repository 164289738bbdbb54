"""How a net is trained: an optimizer of optax with its own options, how long, what is kept.

An optimizer is found in optax by its name and known by its signature: it takes a learning rate
first and returns a whole update. So there is no table of optimizers here, and a new optax has more.
"""

import dataclasses
import functools
import inspect
import math
import typing
from collections.abc import Mapping
from typing import Any

import jax
import optax

from fairkd_jax.registry import UnknownName, check_type

SELECTION_RULES = ("last", "val_average", "val_worst_group", "val_worst_class")
GIVEN = ("learning_rate", "weight_decay", "mask", "weight_decay_mask")  # not by options
OURS = {"sgd": {"momentum": 0.9}}  # where a default is not optax's
BEFORE = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}  # as identities have them where they mean nothing
SHARES = ("b1", "b2", "b3", "decay", "rho", "momentum", "decay_rate")  # in [0, 1)


@functools.cache
def optimizers() -> Mapping[str, Mapping[str, inspect.Parameter]]:
    """The parameters of every optimizer of optax that wants no more than gradients in a step."""
    found = {}
    for name, function in vars(optax).items():
        plain = inspect.isfunction(function) or isinstance(function, functools.partial)
        if plain and not name.startswith("_"):
            signature = inspect.signature(function)
            whole = signature.return_annotation is optax.GradientTransformationExtraArgs
            if whole and next(iter(signature.parameters), "") == "learning_rate":
                found[name] = signature.parameters
    # One that searches along a line evaluates the loss more than once.
    return {k: v for k, v in found.items() if not any(_searches(p) for p in v.values())}


def _searches(parameter: inspect.Parameter) -> bool:
    return isinstance(parameter.default, optax.GradientTransformation)


def signature(name: str) -> Mapping[str, inspect.Parameter]:
    """The parameters of an optimizer. Raises UnknownName for what is none, or wants more."""
    if name in optimizers():
        return optimizers()[name]
    there = callable(getattr(optax, name, None)) and not name.startswith("_")
    why = " (in optax, but no optimizer that takes a learning rate, and in a step gradients alone)"
    raise UnknownName(name, f"optim.name{why if there else ''}", optimizers())


def defaults(name: str) -> dict[str, Any]:
    """The options of an optimizer, each with its default. Raises UnknownName as `signature`."""
    found = {k: p.default for k, p in signature(name).items() if k not in GIVEN}
    return found | OURS.get(name, {})


@functools.cache
def known_options() -> tuple[str, ...]:
    """The options of all optimizers."""
    return tuple(sorted({option for name in optimizers() for option in defaults(name)}))


def is_number(name: str, option: str) -> bool:
    """Does optax compute with this option, so that it may be traced?"""
    annotation = signature(name)[option].annotation
    return annotation is float or jax.Array in typing.get_args(annotation)


def later(default: Any, **metadata: Any) -> Any:
    """A field that older stages did not have: at its default it is no part of an identity."""
    metadata |= {"later": True}
    if isinstance(default, Mapping):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Optim:
    """An optimizer of optax and its schedule. All numbers are traced: a sweep compiles once.

    Options of the optimizer by their names in optax stand beside the rest: {"name": "rmsprop",
    "decay": 0.99}. What is left out, or None, has optax's default; `b1` is also the momentum of an
    optimizer that has one and no `b1` (sgd: 0.9 unless said).
    """

    name: str = "adamw"  # adamw | sgd | lion | adafactor | ...
    learning_rate: float = 1e-3  # at the peak of the schedule
    schedule: str = "cosine"  # constant | linear | cosine: from the peak to 0 at the last step
    warmup: float = 0.0  # share of the steps over which the rate rises from 0
    weight_decay: float = 0.0  # on arrays of two and more axes: as the optimizer has it (adamw:
    # decoupled), added to the gradient where it has none, or none that leaves vectors out
    clip_norm: float = 1.0  # of the global gradient norm; 0 leaves gradients alone
    b1: float | None = None
    b2: float | None = None
    eps: float | None = None
    options: Mapping[str, Any] = later({}, rest=known_options)  # all others of the optimizer
    # Factors on the learning rate: by regular expressions over parameter paths, such as
    # {"nets/student/head/.*": 10.0}, and from block to block, from the head (1) down.
    rates: Mapping[str, float] = later({})
    layer_decay: float = later(1.0)

    def own(self) -> dict[str, Any]:
        """Every option of the optimizer, those that were given and the rest.

        Raises UnknownName for one that it does not have, ValueError for a value that cannot be.
        """
        found, given = defaults(self.name), {k: getattr(self, k) for k in BEFORE}
        given = {k: v for k, v in given.items() if v is not None} | dict(self.options)
        if "b1" in given and "b1" not in found and "momentum" in {*found} - {*given}:
            given["momentum"] = given.pop("b1")
        for key, value in given.items():
            if key not in found:
                raise UnknownName(key, f"option of optim {self.name!r}:", found)
            found[key] = _checked(self.name, key, value, found[key])
        if needed := [k for k, v in found.items() if v is inspect.Parameter.empty]:
            raise ValueError(f"optim {self.name!r} has no default for {needed}: say them")
        return found

    def settled(self) -> "Optim":
        """The same, with numbers that were left to the optimizer said: what an identity is of."""
        found = defaults(self.name)
        found["b1"] = found.get("b1", found.get("momentum", BEFORE["b1"]))
        numbers = {k: getattr(self, k) for k in BEFORE}
        numbers = {k: found.get(k, BEFORE[k]) if v is None else v for k, v in numbers.items()}
        return dataclasses.replace(self, **numbers)


def _checked(name: str, option: str, value: Any, default: Any) -> Any:
    place = f"optim.{option} of {name!r}"
    if not is_number(name, option):
        return check_type(value, None if isinstance(default, type) else default, place)
    if value is None and default is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{place} = {value!r}: expected a number, as its default {default} is")
    if option in SHARES and not 0 <= value < 1:
        raise ValueError(f"{place} = {value}: expected a share from 0 up to, but not, 1")
    return value


@dataclasses.dataclass(frozen=True)
class Train:
    """How long, how large, what is frozen, what is written."""

    steps: int = 1000  # the default also where `epochs` say how long
    batch_size: int = 128  # over all devices
    accumulate: int = 1  # micro-batches a step
    trainable: str = ".*"  # regular expression over parameter paths, "nets/student/head/kernel"
    deterministic: bool = False  # no dropout, BatchNorm by its running statistics
    select: str = "last"  # whose parameters are kept: a selection rule, or a metric's name
    validation: str = "val"  # the split that the rule looks at
    eval_every: int = 0  # steps between validations, 0: at the end only
    log_every: int = 50  # steps between lines of metrics.jsonl, and checks that the loss is finite
    checkpoint_every: int = 500  # steps between checkpoints that a killed run goes on from
    epochs: int | float = later(0.0)  # in place of `steps`: passes over what is drawn from; 0: none
    patience: int = later(0)  # validations without a better selected value before it ends; 0: all
    label_smoothing: float = later(0.0)  # share of the task loss that is of any label alike
    ema: float = later(0.0)  # decay of the average over steps that is scored and kept; 0: the last


@dataclasses.dataclass(frozen=True)
class Role:
    """A model and how it is trained."""

    model: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {"name": "resnet", "preset": "tiny"}, metadata={"room": "models"}
    )
    optim: Optim = Optim()
    train: Train = Train()


@dataclasses.dataclass(frozen=True)
class Teacher(Role):
    """One teacher of several: a role with a debiasing method and a seed of its own.

    Or a finished train stage of another work folder, as it is: {"stage": ..., "workdir": ...}.
    """

    debias: Mapping[str, Any] | None = None  # None: the experiment's
    seed: int = 0  # added to that of the experiment
    stage: str = ""  # its identity there, or how that begins
    workdir: str = ""


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Which weights of the teacher the student starts from; see `models/transfer.py`."""

    layers: str | Mapping[str, str] = dataclasses.field(
        default="every", metadata={"or_mapping": True}
    )  # first | last | every: evenly spaced | {"block00": "block01"}: student's layer -> teacher's
    width: str = "index"  # which units of a wider teacher: index: the first | norm: the largest
    embeddings: bool = True  # copied too, those of words or pixels (the stem)?
    head: bool = True  # copied too, where both nets have the same classes?
    teacher: str = later("", unsaid=True)  # which of several; "": there is but one
