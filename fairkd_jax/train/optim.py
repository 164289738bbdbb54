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
    rates: dict[str, Array] = struct.field(default_factory=dict)  # factors, by pattern
    layer_decay: Array = None  # None: no such factor
    ema: Array = None  # decay of the average of parameters; None: none is kept


@dataclasses.dataclass(frozen=True)
class Rule:
    """What of an `Optim` and a `Train` a compiled step is built from."""

    name: str
    trainable: str
    options: tuple[tuple[str, Any], ...] = ()  # of the optimizer, those that are no numbers
    order: tuple[str, ...] = ()  # of parameters, where the rate differs; see Architecture.order


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
    for pattern, factor in optim.rates.items():
        if not (isinstance(factor, int | float) and 0 <= factor < math.inf):
            raise ValueError(f"optim.rates[{pattern!r}] = {factor!r}: expected a number from 0 on")
    if not 0 < optim.layer_decay <= 1:
        raise ValueError(
            f"optim.layer_decay = {optim.layer_decay}: expected a factor above 0 and up to 1"
        )
    try:
        _moves_at_rate_zero(optim.name, tuple(own.items()))
    except Exception as error:  # of whatever kind: optax checks its options when it computes
        raise ValueError(f"optim {optim.name!r} cannot be made with {own}: {error}") from error
    varies = optim.warmup or optim.schedule != "constant"
    if varies and _moves_at_rate_zero(optim.name, ()):
        raise ValueError(
            f"optim.schedule = {optim.schedule!r}, optim.warmup = {optim.warmup}: {optim.name!r} "
            "reads its learning rate only at the start, so it must be 'constant' and 0"
        )


@functools.lru_cache(maxsize=256)
@jax.transfer_guard("allow")
def _moves_at_rate_zero(name: str, own: tuple[tuple[str, Any], ...]) -> bool:
    """Tries the optimizer: does it change parameters at rate 0, having begun with another one?

    Once for a name and its options, so it may move numbers to the device as they come.
    """
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
    with jax.transfer_guard("allow"):  # once a run
        return np.asarray(optim.learning_rate * schedule(jnp.arange(steps)), np.float32)


def rule_of(optim: Optim, trainable: str = ".*", order: tuple[str, ...] = ()) -> Rule:
    """The static half of an `Optim`, for a net of an `Architecture.order`.

    Raises what `Optim.own` does, and ValueError where the order that it needs is not known.
    """
    options = tuple((k, v) for k, v in optim.own().items() if not _traced(optim, k, v))
    if optim.layer_decay == 1:
        return Rule(optim.name, trainable, options)
    if not order:
        raise ValueError(
            f"optim.layer_decay = {optim.layer_decay}, but the net does not say in which order its "
            "blocks are: Architecture.order gives none"
        )
    return Rule(optim.name, trainable, options, order)


def numbers(optim: Optim, learning_rate: np.float32 | float, ema: float = 0.0) -> Numbers:
    """The traced numbers of one step; those of another one differ in their learning rate."""
    return Numbers(
        learning_rate=np.float32(learning_rate),
        weight_decay=np.float32(optim.weight_decay),
        clip_norm=np.float32(optim.clip_norm),
        options={k: np.float32(v) for k, v in optim.own().items() if _traced(optim, k, v)},
        rates={pattern: np.float32(factor) for pattern, factor in optim.rates.items()},
        layer_decay=None if optim.layer_decay == 1 else np.float32(optim.layer_decay),
        ema=np.float32(ema) if ema else None,
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
    made = optax.partition(
        {
            "train": optax.chain(optax.scale(scale), _from_optax(rule, n)),
            "freeze": optax.set_to_zero(),
        },
        lambda p: labels(p, rule.trainable),
    )
    if not n.rates and n.layer_decay is None:
        return made

    def scaled(updates: Any, params: Any) -> Any:
        return jax.tree.map(jnp.multiply, updates, factors(updates, rule, n))

    return optax.chain(made, optax.stateless(scaled))


def factors(params: Any, rule: Rule, n: Numbers) -> Any:
    """What the learning rate of each parameter is multiplied by: its update is.

    With `layer_decay` d and L blocks: d^(L + 1) where words or pixels are embedded, d^(L - i) in
    block i = 0, 1, ..., 1 behind them, as in arXiv 2003.10555 and 2106.08254.
    Raises ValueError for a pattern that matches nothing, or what another one matches too.
    """
    names = [_path(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(params)]
    rates = {name: [p for p in n.rates if _matches(p, name)] for name in names}
    for pattern in n.rates:
        if not any(pattern in found for found in rates.values()):
            raise ValueError(f"optim.rates: {pattern!r} matches none of {names}")
    if twice := {name: found for name, found in rates.items() if len(found) > 1}:
        raise ValueError(f"optim.rates: of these each parameter may match one: {twice}")

    def factor(keys: Any, _: Any) -> Array:
        found = [n.rates[p] for p in rates[_path(keys)]] or [jnp.float32(1.0)]
        below = _blocks_below_head(_path(keys), rule.order)
        return found[0] * n.layer_decay**below if below else found[0]

    return jax.tree_util.tree_map_with_path(factor, params)


def _blocks_below_head(path: str, order: tuple[str, ...]) -> int:
    within = re.sub(r"nets/[^/]+/", "", path) if path.startswith("nets/") else ""
    places = [i for i, pattern in enumerate(order) if re.fullmatch(pattern, within)]
    return len(order) - places[0] if places else 0


def _matches(pattern: str, path: str) -> bool:
    try:
        return bool(re.fullmatch(pattern, path))
    except re.error as error:
        raise ValueError(f"optim.rates: {pattern!r} is no regular expression: {error}") from error


def _path(keys: Any) -> str:
    return "/".join(k.key for k in keys)


def gradient_norm(rule: Rule, gradient: Any) -> Array:
    """Global norm over the parameters that train, float32 []."""
    chosen = jax.tree.leaves(labels(gradient, rule.trainable))
    leaves = zip(jax.tree.leaves(gradient), chosen)
    return optax.tree.norm([g for g, label in leaves if label == "train"])


def labels(params: Any, trainable: str) -> Any:
    """ "train" or "freeze" for each parameter; ValueError if nothing would train."""
    chosen = jax.tree_util.tree_map_with_path(
        lambda keys, _: "train" if re.fullmatch(trainable, _path(keys)) else "freeze", params
    )
    if "train" not in jax.tree.leaves(chosen):
        names = [_path(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(params)]
        raise ValueError(f"train.trainable = {trainable!r} matches none of {names}")
    return chosen
