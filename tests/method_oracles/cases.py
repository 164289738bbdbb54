"""What adapters of the oracles share: a case, and a method run on one batch of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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


def make_now(memory=(), groups=None, labels=None, step=0) -> Now:
    """Of a run of one step: step 0 is its beginning, step 1 its end."""
    labels = jnp.ones(2) if labels is None else labels
    return Now(jnp.float32(1), groups, labels, jnp.int32(step), memory)


def start(method, spec, dtype):
    """Own parameters and memory, floats in the precision under test."""
    params, memory = method.init(spec, jax.random.key(0))
    cast = lambda v: v.astype(dtype) if jnp.issubdtype(v.dtype, jnp.floating) else v  # noqa: E731
    return jax.tree.map(cast, (params, memory))


def reduce(method, z, batch, params, memory, features=None, extra=None, shift=0.0, **told):
    """(loss, (memory, metrics)) of a method on its task loss plus `shift`; told by `make_now`."""
    outputs = {"student": Outputs(z, features), **(extra or {})}
    now = make_now(memory, **told)
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


def environments(case, name):
    """(an input by environment, one batch of all, counts of groups and of labels)."""
    count = sum(key.startswith(f"{name}_env") for key in case.x)
    parts = [case.x[f"{name}_env{e}"] for e in range(count)]
    none = [jnp.zeros(len(v), int) for v in parts]
    label = jnp.concatenate([case.x.get(f"y_env{e}", none[e]) for e in range(count)])
    attribute = jnp.concatenate([jnp.full(len(v), e) for e, v in enumerate(parts)])
    batch = {"label": label, "attribute": attribute, "real": case.ones(label)}
    return parts, batch, {"groups": jnp.ones(2 * count), "labels": jnp.ones(2)}


def with_bias(case: Case, *log_probs, **tables) -> dict[str, Any]:
    """A batch with what one or several sources of bias say, and other tables."""
    said = {f"bias{i or ''}": {"log_probs": b} for i, b in enumerate(log_probs)}
    said |= {name: {"log_probs": values} for name, values in tables.items()}
    return {"label": case.x["y"], "tables": said, "real": case.ones(case.x["y"])}


def sources(count: int) -> tuple:
    """The option `bias` of a method that reads so many."""
    return ((("name", "weak_learner"),),) * count


def on_host(function, like, *arrays):
    """`function` of NumPy arrays, called from a compiled program; `like` has what it returns."""
    return jax.pure_callback(lambda *given: function(*map(np.asarray, given)), like, *arrays)
