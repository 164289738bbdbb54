"""What adapters of the oracles share: a case, and a method run on one batch of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fairkd_jax.types import Now, Outputs, Spec, Terms


class Case(NamedTuple):
    """One case: its inputs as arrays of the precision under test, and its numbers."""

    x: dict[str, Any]
    hyper: dict[str, Any]
    dtype: Any

    def ones(self, like) -> jax.Array:
        return jnp.ones(len(like), self.dtype)


def make_spec(groups=None, student=Outputs(None), teachers=(), **sizes) -> Spec:
    groups = jnp.ones(4) if groups is None else groups
    return Spec(groups, jnp.ones(2), student, teachers, **sizes)


def make_now(memory=(), groups=None) -> Now:
    return Now(jnp.float32(1), groups, jnp.ones(2), jnp.int32(0), memory)


def start(method, spec, dtype):
    """Own parameters and memory, floats in the precision under test."""
    params, memory = method.init(spec, jax.random.key(0))
    cast = lambda v: v.astype(dtype) if jnp.issubdtype(v.dtype, jnp.floating) else v  # noqa: E731
    return jax.tree.map(cast, (params, memory))


def reduce(method, z, batch, params, memory, features=None, extra=None, shift=0.0, groups=None):
    """(loss, (memory, metrics)) of a method on the task's cross-entropy plus `shift`."""
    outputs = {"student": Outputs(z, features), **(extra or {})}
    now = make_now(memory, groups)
    task = method.task(outputs, batch, params, now)
    terms = Terms(task=task, distill=jnp.zeros_like(task), total=task + shift)
    loss, memory, metrics = method(terms, outputs, batch, params, now, jax.random.key(0))
    return loss, (memory, metrics)


def weights_of(method, z, batch, params, memory, **kwargs):
    """What each example's loss is multiplied by before the mean."""
    slope = jax.grad(
        lambda shift: reduce(method, z, batch, params, memory, shift=shift, **kwargs)[0]
    )(jnp.zeros(len(z), z.dtype))
    return slope * len(z)


def tap(name: str, value) -> Outputs:
    return Outputs(value[:, :1].reshape(len(value), -1), taps={name: value})
