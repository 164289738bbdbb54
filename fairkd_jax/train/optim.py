"""Optax from a config: numbers are traced, so that a sweep over them shares one compiled step."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from fairkd_jax.config import Optim
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Array


@struct.dataclass
class Numbers:
    """What of an `Optim` a compiled step reads as data."""

    learning_rate: Array  # at this step
    weight_decay: Array
    clip_norm: Array
    b1: Array
    b2: Array
    eps: Array


@dataclasses.dataclass(frozen=True)
class Rule:
    """What of an `Optim` and a `Train` a compiled step is built from."""

    name: str
    trainable: str


def _adamw(n: Numbers) -> optax.GradientTransformation:
    return optax.adamw(
        n.learning_rate, b1=n.b1, b2=n.b2, eps=n.eps, weight_decay=n.weight_decay, mask=_matrices
    )


def _sgd(n: Numbers) -> optax.GradientTransformation:
    """With momentum; decay is added to the gradient, as the published recipes with SGD do."""
    return optax.chain(
        optax.add_decayed_weights(n.weight_decay, mask=_matrices),
        optax.sgd(n.learning_rate, momentum=n.b1),
    )


OPTIMIZERS = {"adamw": _adamw, "sgd": _sgd}
SCHEDULES = {
    "constant": lambda steps: optax.constant_schedule(1.0),
    "linear": lambda steps: optax.linear_schedule(1.0, 0.0, steps),
    "cosine": lambda steps: optax.cosine_decay_schedule(1.0, steps),
}


def _matrices(params: Any) -> Any:
    """Which parameters decay: not biases, scales and other vectors."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


def check(optim: Optim) -> None:
    """Raises UnknownName or ValueError for an optimizer, a schedule or a number that cannot be."""
    for value, place, choices in (
        (optim.name, "optim.name", OPTIMIZERS),
        (optim.schedule, "optim.schedule", SCHEDULES),
    ):
        if value not in choices:
            raise UnknownName(value, place, choices)
    if not (optim.learning_rate >= 0 and 0 <= optim.warmup <= 1):
        raise ValueError(
            f"optim.learning_rate = {optim.learning_rate} must be at least 0 and optim.warmup = "
            f"{optim.warmup} a share of the steps between 0 and 1"
        )


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


def numbers(optim: Optim, learning_rate: np.float32 | float) -> Numbers:
    """The traced numbers of one step."""
    return Numbers(
        learning_rate=np.float32(learning_rate),
        weight_decay=np.float32(optim.weight_decay),
        clip_norm=np.float32(optim.clip_norm),
        b1=np.float32(optim.b1),
        b2=np.float32(optim.b2),
        eps=np.float32(optim.eps),
    )


def optimizer(rule: Rule, n: Numbers, norm: Array = 1.0) -> optax.GradientTransformation:
    """Clipping, then the optimizer, on parameters whose path matches `rule.trainable`.

    `norm` is the gradient's: clipping is then one product an element, where
    `optax.clip_by_global_norm` divides and selects, which takes ten times as long on CPU.
    """
    scale = jnp.where(n.clip_norm > 0, jnp.minimum(1.0, n.clip_norm / norm), 1.0)
    return optax.partition(
        {
            "train": optax.chain(optax.scale(scale), OPTIMIZERS[rule.name](n)),
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
