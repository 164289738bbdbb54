"""A measure of every pair of layers of two nets, its null, and its jackknife over blocks.

The null is the same with the second net's rows shuffled, so that no similarity is left but what the
estimator makes up. All of it is one compiled program a measure: what `Measure.relate` gives is made
once for each layer, and each pair of layers costs what `Measure.pair` does.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array as JaxArray
from jaxtyping import Bool, Float, Int

from fairkd_jax.representation import kernels
from fairkd_jax.representation.cka import Moments, _varies
from fairkd_jax.representation.kinds import BLOCKS, jackknifed
from fairkd_jax.representation.measure import Measure
from fairkd_jax.sharding import put_replicated, replicated
from fairkd_jax.types import Array

Layers = Mapping[str, Float[Array, "N _"]]


@dataclasses.dataclass(frozen=True)
class Found:
    """A measure of all pairs of layers: float [L1, L2] each, NaN where undefined."""

    value: Float[np.ndarray, "L1 L2"]
    low: Float[np.ndarray, "L1 L2"]  # of the 95% interval over examples
    high: Float[np.ndarray, "L1 L2"]
    null: Float[np.ndarray, "L1 L2"]

    @classmethod
    def nothing(cls, first: Sequence[str], second: Sequence[str]) -> "Found":
        """All of it undefined."""
        return cls(*(np.full((len(first), len(second)), np.nan) for _ in range(4)))

    @classmethod
    def of(cls, values: Float[np.ndarray, "M L1 L2"], filled: Bool[np.ndarray, "K"]) -> "Found":
        """`values` are of all, of shuffled rows, without each block, those `filled` alone."""
        values = np.asarray(values, np.float64)
        told = jackknifed(values[0], [*values[2:][filled]]).told()
        return cls(null=values[1], **told)


def of_rows(
    measure: Measure,
    first: Layers,
    second: Layers,
    n: int,
    order: Int[np.ndarray, "n"],
    mesh: Mesh | None = None,
) -> Found:
    """Of the first n rows of features; `order` shuffles them, the rest is padding.

    Row i belongs to block i modulo BLOCKS. Features stay where they are.
    """
    if n < measure.least:
        return Found.nothing([*first], [*second])
    rows = len(next(iter(first.values())))
    there, shuffled = np.arange(rows) < n, np.arange(rows)
    shuffled[:n] = order
    block = np.arange(rows) % BLOCKS
    masks = [there, there, *(there & (block != i) for i in range(BLOCKS))]
    values = put((np.float32(masks), np.int32(np.arange(len(masks)) == 1), shuffled), mesh)
    found = _of_rows(measure, [*first.values()], [*second.values()], *values)
    return Found.of(get(found, mesh), np.arange(BLOCKS) < n)


def value_of_rows(
    measure: Measure, first: Layers, second: Layers, n: int, mesh: Mesh | None = None
) -> Float[np.ndarray, "L1 L2"]:
    """The value alone, of the first n rows."""
    if n < measure.least:
        return np.full((len(first), len(second)), np.nan)
    rows = len(next(iter(first.values())))
    masks, whole = np.float32(np.arange(rows) < n)[None], np.zeros(1, np.int32)
    values = put((masks, whole, np.arange(rows)), mesh)
    found = _of_rows(measure, [*first.values()], [*second.values()], *values)
    return np.float64(get(found, mesh)[0])


def put(values: Any, mesh: Mesh | None) -> Any:
    """Host values on every device of a mesh, on one without."""
    return put_replicated(values, mesh) if mesh else jax.device_put(values)


def get(found: Any, mesh: Mesh | None) -> Any:
    """On the host what the devices of a mesh hold."""
    if mesh and jax.process_count() > 1:
        found = jax.jit(lambda x: x, out_shardings=replicated(mesh))(found)
    return jax.device_get(found)


@functools.partial(jax.jit, static_argnames="measure")
def _of_rows(
    measure: Measure,
    first: Sequence[Array],
    second: Sequence[Array],
    masks: Float[Array, "M N"],
    shuffled: Int[Array, "M"],
    order: Int[Array, "N"],
) -> Float[JaxArray, "M L1 L2"]:
    masks = masks.astype(jnp.promote_types(first[0].dtype, jnp.float32))
    x = [measure.relate(one, masks[0]) for one in first]
    relate = jax.vmap(measure.relate, (0, None))
    y = [relate(jnp.stack([one, one[order]]), masks[0]) for one in second]

    def of(told: tuple[JaxArray, JaxArray]) -> JaxArray:
        mask, which = told
        chosen = [jax.tree.map(lambda v: v[which], one) for one in y]
        a, b = ([measure.settle(one, mask) for one in net] for net in (x, chosen))
        found = jnp.zeros((len(a), len(b)), mask.dtype)
        for rows, these in _alike(a):
            for columns, those in _alike(b):
                values = _each_with_all(measure, these, those, mask)
                found = found.at[np.ix_(rows, columns)].set(values)
        return found

    return jax.lax.map(of, (masks, shuffled))


def _each_with_all(measure: Measure, these: Any, those: Any, mask: JaxArray) -> JaxArray:
    """One layer of the first net after the other, so that memory is that of the second's."""

    def with_all(one: Any) -> JaxArray:
        return jax.vmap(lambda other: measure.pair(one, other, mask))(those)

    return jax.lax.map(with_all, these)


def _alike(settled: Sequence[Any]) -> list[tuple[list[int], Any]]:
    """(places, layers stacked) of layers whose arrays have equal shapes."""
    groups: dict[Any, list[int]] = {}
    for i, one in enumerate(settled):
        shapes = tuple(v.shape for v in jax.tree.leaves(one))
        groups.setdefault(shapes, []).append(i)
    return [
        (places, jax.tree.map(lambda *v: jnp.stack(v), *(settled[i] for i in places)))
        for places in groups.values()
    ]


@jax.jit
def varying(layers: Sequence[Array], mask: Array) -> Bool[JaxArray, "L"]:
    """Which layers' features differ between the rows with mask 1 by more than rounding."""
    return jnp.stack([kernels.varies(x, mask) for x in layers])


@functools.partial(jax.jit, static_argnames="measure")
def of_sums(
    measure: Measure, sums: Moments, shuffled: Moments
) -> tuple[Float[JaxArray, "M"], Bool[JaxArray, "K"], Bool[JaxArray, "2"]]:
    """Of one pair of layers, from sums by block [BLOCKS, ...] and those of shuffled rows.

    (Values and blocks as `Found.of` takes them; does each of both layers vary at all?)
    """

    def total(leave: JaxArray) -> Moments:
        def add(done: Moments, one: tuple[JaxArray, Moments]) -> tuple[Moments, None]:
            place, block = one
            more = done + block
            return jax.tree.map(lambda a, b: jnp.where(place == leave, a, b), done, more), None

        empty = jax.tree.map(lambda v: jnp.zeros_like(v[0]), sums)
        empty = empty.replace(exponent=jax.tree.map(lambda v: jnp.min(v), sums.exponent))
        return jax.lax.scan(add, empty, (jnp.arange(BLOCKS), sums))[0]

    whole = total(jnp.int32(-1))
    without = jax.lax.map(lambda i: measure.of_sums(total(i)), jnp.arange(BLOCKS))
    values = jnp.stack([measure.of_sums(whole), measure.of_sums(shuffled)])
    known = [
        _varies(
            jnp.diag(whole.sums[f"{k}_{k}"]),
            whole.sums["n"],
            whole.location[k],
            whole.exponent[k],
        )
        for k in ("x", "y")
    ]
    return jnp.concatenate([values, without]), sums.sums["n"] > 0, jnp.stack(known)


def known(
    measure: Measure,
    found: Found,
    n: int,
    varies: tuple[Bool[np.ndarray, "L1"], Bool[np.ndarray, "L2"]],
    names: tuple[Sequence[str], Sequence[str]],
) -> tuple[Found, list[str]]:
    """(what is found, NaN for layers that do not vary; why something is NaN, a phrase each)."""
    if n < measure.least:
        return found, [f"{n} examples, and at least {measure.least} are needed"]
    both = varies[0][:, None] & varies[1][None, :]
    parts = {f.name: np.where(both, getattr(found, f.name), np.nan) for f in _FIELDS}
    told = Found(**parts)
    reasons = [
        f"{name} of the {which} net does not vary over the {n} examples"
        for which, some, layers in zip(("first", "second"), varies, names)
        for name, varied in zip(layers, some)
        if not varied
    ]
    if lost := int(np.sum(np.isnan(told.value) & both)):
        reasons.append(f"{lost} pairs of layers: {measure.undefined}")
    if np.any(np.isnan(told.low) & ~np.isnan(told.value)):
        reasons.append("an interval: undefined without one of the blocks of examples")
    return told, reasons


_FIELDS = dataclasses.fields(Found)
