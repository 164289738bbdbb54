"""Optax from a config: numbers are traced, so that a sweep over them shares one compiled step."""

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from fairkd_jax import recipe
from fairkd_jax.config import Optim
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Array


@struct.dataclass
class Numbers:
    """What of an `Optim` a compiled step reads as data."""

    learning_rate: Array  # at this step
    weight_decay: Array
    clip_norm: Array
    options: dict[str, Array]  # of the optimizer, those that are numbers


@dataclasses.dataclass(frozen=True)
class Rule:
    """What of an `Optim` and a `Train` a compiled step is built from."""

    name: str
    trainable: str
    options: tuple[tuple[str, Any], ...] = ()  # of the optimizer, those that are no numbers


SCHEDULES = {
    "constant": lambda steps: optax.constant_schedule(1.0),
    "linear": lambda steps: optax.linear_schedule(1.0, 0.0, steps),
    "cosine": lambda steps: optax.cosine_decay_schedule(1.0, steps),
}


def _matrices(params: Any) -> Any:
    """Which parameters decay: not biases, scales and other vectors."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


def check(optim: Optim) -> None:
    """Raises UnknownName or ValueError for a name, an option or a number that cannot be."""
    own = optim.own()
    if optim.schedule not in SCHEDULES:
        raise UnknownName(optim.schedule, "optim.schedule", SCHEDULES)
    numbers = optim.learning_rate, optim.weight_decay, optim.clip_norm
    if not (all(0 <= n < math.inf for n in numbers) and 0 <= optim.warmup <= 1):
        raise ValueError(
            f"optim.learning_rate = {optim.learning_rate}, weight_decay = {optim.weight_decay} and "
            f"clip_norm = {optim.clip_norm} must be at least 0 and optim.warmup = {optim.warmup} a "
            "share of the steps between 0 and 1"
        )
    try:
        moved = _moved_at_rate_zero(optim.name, tuple(own.items()))
    except Exception as error:  # of whatever kind: optax checks its options when it computes
        raise ValueError(f"optim {optim.name!r} cannot be made with {own}: {error}") from error
    if moved and (optim.warmup or optim.schedule != "constant"):
        raise ValueError(
            f"optim.schedule = {optim.schedule!r}, optim.warmup = {optim.warmup}: {optim.name!r} "
            "reads its learning rate only at the start, so it must be 'constant' and 0"
        )


@functools.lru_cache(maxsize=256)
def _moved_at_rate_zero(name: str, own: tuple[tuple[str, Any], ...]) -> bool:
    """Does the optimizer change parameters at a rate of 0, having begun with another one?"""
    optim = Optim(name, options=dict(own))
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    start, later = (_from_optax(rule_of(optim), numbers(optim, rate)) for rate in (1.0, 0.0))
    step = jax.jit(later.update)
    updates, _ = step(params, step(params, start.init(params), params)[1], params)
    return any(bool(jnp.any(x != 0)) for x in jax.tree.leaves(updates))


def learning_rates(optim: Optim, steps: int) -> np.ndarray:
    """The learning rate at every step, float32 [steps]: a table, so no schedule is compiled."""
    warmup = round(optim.warmup * steps)
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, 1.0, max(warmup, 1)),
            SCHEDULES[optim.schedule](max(steps - warmup, 1)),
        ],
        [warmup],
    )
    return np.asarray(optim.learning_rate * schedule(jnp.arange(steps)), np.float32)


def rule_of(optim: Optim, trainable: str = ".*") -> Rule:
    """The static half of an `Optim`; raises what `Optim.own` does."""
    own = optim.own().items()
    return Rule(optim.name, trainable, tuple((k, v) for k, v in own if not _traced(optim, k, v)))


def numbers(optim: Optim, learning_rate: np.float32 | float) -> Numbers:
    """The traced numbers of one step; those of another one differ in their learning rate."""
    return Numbers(
        learning_rate=np.float32(learning_rate),
        weight_decay=np.float32(optim.weight_decay),
        clip_norm=np.float32(optim.clip_norm),
        options={k: np.float32(v) for k, v in optim.own().items() if _traced(optim, k, v)},
    )


def _traced(optim: Optim, option: str, value: Any) -> bool:
    return value is not None and recipe.is_number(optim.name, option)


def _from_optax(rule: Rule, n: Numbers) -> optax.GradientTransformation:
    """The optimizer, with decay of its own where that leaves vectors out, else in the gradient."""
    parameters = recipe.signature(rule.name)
    options: dict[str, Any] = dict(rule.options) | n.options
    options |= {k: _matrices for k in ("mask", "weight_decay_mask") if k in parameters}
    own = "weight_decay" in parameters and {"mask", "weight_decay_mask"} & {*parameters}
    options |= {"weight_decay": n.weight_decay} if own else {}
    made = getattr(optax, rule.name)(n.learning_rate, **options)
    return made if own else optax.chain(optax.add_decayed_weights(n.weight_decay, _matrices), made)


def optimizer(rule: Rule, n: Numbers, norm: Array = 1.0) -> optax.GradientTransformation:
    """Clipping, then the optimizer, on parameters whose path matches `rule.trainable`.

    `norm` is the gradient's: clipping is then one product an element, where
    `optax.clip_by_global_norm` divides and selects, which takes ten times as long on CPU.
    """
    scale = jnp.where(n.clip_norm > 0, jnp.minimum(1.0, n.clip_norm / norm), 1.0)
    return optax.partition(
        {
            "train": optax.chain(optax.scale(scale), _from_optax(rule, n)),
            "freeze": optax.set_to_zero(),
        },
        lambda p: labels(p, rule.trainable),
    )


def gradient_norm(rule: Rule, gradient: Any) -> Array:
    """Global norm over the parameters that train, float32 []."""
    chosen = jax.tree.leaves(labels(gradient, rule.trainable))
    leaves = zip(jax.tree.leaves(gradient), chosen)
    return optax.tree.norm([g for g, label in leaves if label == "train"])


def labels(params: Any, trainable: str) -> Any:
    """ "train" or "freeze" for each parameter; ValueError if nothing would train."""

    def path(keys: Any) -> str:
        return "/".join(k.key for k in keys)

    chosen = jax.tree_util.tree_map_with_path(
        lambda keys, _: "train" if re.fullmatch(trainable, path(keys)) else "freeze", params
    )
    if "train" not in jax.tree.leaves(chosen):
        names = [path(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(params)]
        raise ValueError(f"train.trainable = {trainable!r} matches none of {names}")
    return chosen
