"""What a circuit of a net is a part of: its nodes, or the edges between them.

A node is a head, the output of a perceptron, or a residual branch; what a net reads is always
there. An edge carries what one node adds to a residual stream, to one reader of it: the queries,
keys or values of a head, a perceptron, the logits; see `models/wiring.py`.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int

from fairkd_jax.models.net import Net
from fairkd_jax.models.wiring import Reader, Step, Writer
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Batch

LEVELS = ("edges", "nodes")
BY_HEAD = ("head_out", "_query", "_key", "_value")  # how names of taps [B, T, N, H] end


@dataclasses.dataclass(frozen=True, order=True)
class Site:
    """A place inside a net: a tap, one head of it, one position of it."""

    tap: str
    head: int | None = None  # None: all
    position: int | None = None  # None: all

    def __str__(self) -> str:
        head = "" if self.head is None else f"[{self.head}]"
        return f"{self.tap}{head}" + ("" if self.position is None else f"@{self.position}")


@dataclasses.dataclass(frozen=True)
class Nodes:
    """Sites that are replaced, each by itself; `shapes` are those of their taps, with a batch."""

    sites: tuple[Site, ...]
    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    level = "nodes"

    def __len__(self) -> int:
        return len(self.sites)

    @property
    def names(self) -> list[str]:
        return [*map(str, self.sites)]

    @functools.cached_property
    def taps(self) -> tuple[str, ...]:
        """Those that are replaced, in order."""
        return tuple(dict.fromkeys(site.tap for site in self.sites))

    def off(self, kept: Bool[np.ndarray, "K S"]) -> dict[str, Bool[np.ndarray, "K ..."]]:
        """By tap, where it is replaced: [K, ...], to be broadcast to what passes, without B."""
        shapes, found = dict(self.shapes), {}
        for tap in self.taps:
            at = [(i, site) for i, site in enumerate(self.sites) if site.tap == tap]
            shape, heads = shapes[tap], heads_axis(tap)
            size = [1] * len(shape)
            if any(site.head is not None for _, site in at):
                size[heads] = shape[heads]
            if any(site.position is not None for _, site in at):
                size[1] = shape[1]
            mask = np.zeros((len(kept), *size[1:]), bool)
            for i, site in at:
                where: list[Any] = [slice(None)] * len(size)
                where[heads] = slice(None) if site.head is None else site.head
                where[1] = where[1] if site.position is None else site.position
                mask[tuple(where)] |= ~kept[:, i].reshape(-1, *[1] * (mask[tuple(where)].ndim - 1))
            found[tap] = mask
        return found

    def pruned(self, kept: Bool[np.ndarray, "S"]) -> Bool[np.ndarray, "S"]:
        """As it is: every node reads the stream and writes into it."""
        return kept

    @property
    def backwards(self) -> Int[np.ndarray, "S"]:
        """From the output on."""
        return np.arange(len(self))[::-1]

    @property
    def parts(self) -> list[tuple[str, ...]]:
        """Of each site its tap: sites that differ in the head alone have no order."""
        return [(site.tap,) for site in self.sites]


def heads_axis(tap: str) -> int:
    """Which axis of a tap holds heads, where it has some."""
    return 1 if tap.endswith(("_scores", "_probs")) else 2


@dataclasses.dataclass(frozen=True)
class Edges:
    """Edges between all that writes a residual stream and all that reads it later."""

    steps: tuple[Step, ...]

    level = "edges"

    def __len__(self) -> int:
        return len(self.pairs)

    @functools.cached_property
    def sources(self) -> tuple[Site, ...]:
        return tuple(
            Site(step.tap, h)
            for step in self.steps
            if isinstance(step, Writer)
            for h in _heads(step)
        )

    @functools.cached_property
    def targets(self) -> tuple[Site, ...]:
        return tuple(
            Site(step.seam, h)
            for step in self.steps
            if isinstance(step, Reader)
            for h in _heads(step)
        )

    @functools.cached_property
    def feeds(self) -> tuple[Site | None, ...]:
        """The node of each target; None: the logits."""
        return tuple(
            Site(step.feeds, h) if step.feeds else None
            for step in self.steps
            if isinstance(step, Reader)
            for h in _heads(step)
        )

    @functools.cached_property
    def before(self) -> Mapping[str, tuple[int, ...]]:
        """By seam the numbers of the sources that its stream has when it is read, in order."""
        streams: dict[str, list[int]] = {}
        found, number = {}, 0
        for step in self.steps:
            own = streams.setdefault(step.stream, [])
            if isinstance(step, Reader):
                found[step.seam] = tuple(own)
            else:
                own += range(number, number + len(_heads(step)))
                number += len(_heads(step))
        return found

    @functools.cached_property
    def exists(self) -> Bool[np.ndarray, "S T"]:
        found = np.zeros((len(self.sources), len(self.targets)), bool)
        for j, target in enumerate(self.targets):
            found[list(self.before[target.tap]), j] = True
        return found

    @functools.cached_property
    def pairs(self) -> Int[np.ndarray, "E 2"]:
        """(source, target) of each edge, by target."""
        return np.argwhere(self.exists.T)[:, ::-1]

    @property
    def names(self) -> list[str]:
        return [f"{self.sources[i]} -> {self.targets[j]}" for i, j in self.pairs]

    def off(self, kept: Bool[np.ndarray, "K E"]) -> Bool[np.ndarray, "K S T"]:
        """Which edges carry what they are given in place of what is computed."""
        found = np.zeros((len(kept), *self.exists.shape), bool)
        found[:, self.pairs[:, 0], self.pairs[:, 1]] = ~kept
        return found

    def pruned(self, kept: Bool[np.ndarray, "E"]) -> Bool[np.ndarray, "E"]:
        """Without dead ends: edges from nodes that none leads to, and to nodes that none leaves."""
        node_of = {site: i for i, site in enumerate(self.sources)}
        into = np.array([-1 if site is None else node_of[site] for site in self.feeds])
        first = np.array(
            [site.tap not in {f.tap for f in self.feeds if f} for site in self.sources]
        )
        source, target = self.pairs.T
        kept = kept.copy()
        while True:
            reached, leaves = first.copy(), np.zeros(len(self.sources), bool)
            reached[into[target[kept]][into[target[kept]] >= 0]] = True
            leaves[source[kept]] = True
            alive = kept & reached[source] & ((into[target] < 0) | leaves[into[target]])
            if np.array_equal(alive, kept):
                return kept
            kept = alive

    @property
    def backwards(self) -> Int[np.ndarray, "E"]:
        """From the output on: the last readers first, of each its last writers first."""
        return np.lexsort((-self.pairs[:, 0], -self.pairs[:, 1]))

    @property
    def parts(self) -> list[tuple[str, ...]]:
        """Of each edge the taps it leads from and to, without heads."""
        return [(self.sources[i].tap, self.targets[j].tap) for i, j in self.pairs]

    def among(self, nodes: Sequence[Site]) -> Bool[np.ndarray, "E"]:
        """The edges among what a net reads, some nodes, and the logits."""
        inputs = {site for site in self.sources if site.tap not in {f.tap for f in self.feeds if f}}
        there = {*nodes} | inputs
        return np.array(
            [
                self.sources[i] in there and (self.feeds[j] is None or self.feeds[j] in there)
                for i, j in self.pairs
            ]
        )


Graph = Nodes | Edges


def _heads(step: Step) -> list[int | None]:
    return [*range(step.heads)] if step.heads else [None]


def graph_of(net: Net, batch: Batch, level: str) -> Graph:
    """The graph of a net at a level. Raises UnknownName for another level, ValueError for edges
    of a net that has none, and where it has no nodes.
    """
    if level not in LEVELS:
        raise UnknownName(level, "level of circuits:", LEVELS)
    if level == "edges":
        if not (steps := net.architecture.wiring()):
            raise ValueError(f"circuits: the net has no edges, {net.architecture.no_edges}")
        return Edges(tuple(steps))
    shapes = shapes_of(net, batch, net.architecture.nodes)
    sites = [
        Site(tap, head)
        for tap, shape in shapes.items()
        for head in (range(shape[2]) if tap.endswith(BY_HEAD) else [None])
    ]
    return Nodes(tuple(sites), tuple(shapes.items()))


def shapes_of(net: Net, batch: Batch, taps: str) -> dict[str, tuple[int, ...]]:
    """The shapes of all taps of those names (regex), in the order of the computation."""
    heard: dict[str, tuple[int, ...]] = {}

    def forward(variables: Any, batch: Any) -> None:
        found = net.apply(variables, batch, train=False, save=taps)[0].taps
        heard.update({name: x.shape for name, x in found.items()})

    jax.eval_shape(forward, net.variable_shapes(), batch)
    return heard
