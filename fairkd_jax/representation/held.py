"""What one pass over examples leaves on the devices of the layers of two nets, by kind of example.

Either the pooled features of the examples that are compared, at most so many as were asked for,
their rows split over all devices; or sums over examples for each pair of layers and block of
batches, whose size does not depend on how many examples there are. Measures that stream may have
either; nothing of the size of features leaves the devices.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array as JaxArray
from jaxtyping import Float, Int

from fairkd_jax.representation.cka import Moments
from fairkd_jax.representation.kinds import BLOCKS, KINDS
from fairkd_jax.sharding import divisible, put_replicated
from fairkd_jax.types import Array

ROOM = 2**28  # numbers: features that are no more, a gibibyte, are held rather than sums
Taps = Mapping[str, Float[Array, "B _"]]


@dataclasses.dataclass
class Rows:
    """Features of chosen examples by net and tap: [kinds, N, D]."""

    examples: int  # of each kind, at most
    mesh: Mesh | None = None
    nets: tuple[dict[str, JaxArray], ...] = dataclasses.field(default_factory=lambda: ({}, {}))

    @property
    def size(self) -> int:
        """Rows of a buffer: the examples, and padding so that they divide over the devices."""
        return divisible(self.examples, self.mesh) if self.mesh else self.examples

    def add(
        self, taps: Sequence[Taps], kind: Int[np.ndarray, "B"], place: Int[np.ndarray, "B"]
    ) -> None:
        """A batch; example i is the `place[i]`-th of its kind, kind -1: it is not wanted."""
        wanted = np.where(kind < 0, len(KINDS), kind).astype(np.int32)  # out of bounds: dropped
        at = _put((wanted, place.astype(np.int32)), self.mesh)
        for held, found in zip(self.nets, taps):
            for name, x in found.items():
                if name not in held:
                    held[name] = _empty((len(KINDS), self.size, x.shape[1]), self.mesh)
                held[name] = _hold(held[name], x, *at)

    def of(self, kind: str) -> tuple[dict[str, JaxArray], ...]:
        """The layers of both nets for one kind of example."""
        i = KINDS.index(kind)
        return tuple({k: _take(x, i) for k, x in held.items()} for held in self.nets)


def _put(values: Any, mesh: Mesh | None) -> Any:
    return put_replicated(values, mesh) if mesh else jax.device_put(values)


def _empty(shape: tuple[int, ...], mesh: Mesh | None) -> JaxArray:
    out = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp"))) if mesh else None
    return jax.jit(lambda: jnp.zeros(shape, jnp.float32), out_shardings=out)()


@functools.partial(jax.jit, donate_argnums=0)
def _hold(held: Array, x: Array, kind: Array, place: Array) -> JaxArray:
    return held.at[kind, place].set(x, mode="drop")


@functools.partial(jax.jit, static_argnums=1)
def _take(held: Array, kind: int) -> JaxArray:
    return held[kind]


@dataclasses.dataclass
class Sums:
    """`cka.Moments` of each pair of layers, by kind and block; and of shuffled rows, by kind.

    A batch is one block's, in turn, and rows are shuffled within a batch.
    """

    mesh: Mesh | None = None
    seed: int = 0
    batches: int = 0
    pairs: dict[tuple[str, str], tuple[Moments, Moments]] = dataclasses.field(default_factory=dict)

    def add(
        self, taps: Sequence[Taps], kind: Int[np.ndarray, "B"], place: Int[np.ndarray, "B"]
    ) -> None:
        """A batch; kind -1: an example that is not wanted."""
        del place  # sums know no order
        first, second = taps
        masks = np.float32(kind == np.arange(len(KINDS))[:, None])
        order = shuffled(kind, np.random.default_rng([self.seed, self.batches]))
        block = np.int32(self.batches % BLOCKS)
        masks, order, block = _put((masks, order, block), self.mesh)
        for a, x in first.items():
            for b, y in second.items():
                if (a, b) not in self.pairs:
                    self.pairs[a, b] = _no_sums(x, y)
                self.pairs[a, b] = _sum(self.pairs[a, b], x, y, masks, order, block)
        self.batches += 1

    def of(self, kind: str) -> dict[tuple[str, str], tuple[Moments, Moments]]:
        """By pair of layers, for one kind of example: (by block, of shuffled rows)."""
        i = KINDS.index(kind)
        return {k: _part(v, i) for k, v in self.pairs.items()}


def shuffled(kind: Int[np.ndarray, "B"], random: np.random.Generator) -> Int[np.ndarray, "B"]:
    """For each row another row of its kind, where there is one; each row once."""
    order = np.arange(len(kind))
    for i in range(len(KINDS)):
        at = random.permutation(np.flatnonzero(kind == i))
        order[at] = np.roll(at, 1)
    return order.astype(np.int32)


@jax.jit
def _no_sums(x: Array, y: Array) -> tuple[Moments, Moments]:
    none = Moments.start(x, y)

    def many(*shape: int) -> Moments:
        return jax.tree.map(lambda v: jnp.broadcast_to(v, (*shape, *v.shape)), none)

    return many(len(KINDS), BLOCKS), many(len(KINDS))


@functools.partial(jax.jit, donate_argnums=0)
def _sum(
    held: tuple[Moments, Moments], x: Array, y: Array, masks: Array, order: Array, block: Array
) -> tuple[Moments, Moments]:
    by_block, null = held

    def more(done: Moments, mask: Array, y: Array) -> Moments:
        return done.update(x, y, mask)

    add = jax.vmap(more, (0, 0, None))
    now = add(jax.tree.map(lambda v: v[:, block], by_block), masks, y)
    by_block = jax.tree.map(lambda v, new: v.at[:, block].set(new), by_block, now)
    return by_block, add(null, masks, y[order])


@functools.partial(jax.jit, static_argnums=1)
def _part(held: tuple[Moments, Moments], kind: int) -> tuple[Moments, Moments]:
    return jax.tree.map(lambda v: v[kind], held)


def size_of_rows(widths: Sequence[Sequence[int]], examples: int) -> int:
    """Numbers that `Rows` holds for layers of these widths."""
    return len(KINDS) * examples * sum(map(sum, widths))


def size_of_sums(widths: Sequence[Sequence[int]]) -> int:
    """Numbers that `Sums` holds: three products of widths for each pair of layers, mostly."""
    first, second = widths
    pairs = sum(a * a + a * b + b * b + 4 * (a + b) for a in first for b in second)
    return len(KINDS) * (BLOCKS + 1) * pairs
