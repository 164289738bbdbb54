"""A net, pairs of clean and corrupt inputs, and what is measured: what ways of scoring are given.

Batches are gone through one by one and hold `batch_size` pairs, of which `at_once` patched passes
run together: so memory is bounded, and all sites of a net share one compiled program.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from fairkd_jax.circuits.graph import Graph
from fairkd_jax.circuits.metric import Metric
from fairkd_jax.circuits.patching import (
    ABLATIONS,
    attributed_step,
    ends_step,
    patched_step,
    shapes_written,
    sums_step,
)
from fairkd_jax.models.net import Net
from fairkd_jax.registry import UnknownName
from fairkd_jax.sharding import put_replicated, replicated_like
from fairkd_jax.types import Array, Batch

AT_ONCE = 8  # patched passes of a batch that run together


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a circuit is sought in. Numbers by example are those of real rows, in their order."""

    net: Net
    variables: Mapping[str, Any]
    graph: Graph
    metric: Metric
    batches: Sequence[Batch]  # on the host; "views" are clean, "corrupt" is beside them
    ablation: str = "interchange"
    put: Callable[[Batch], Batch] = lambda batch: batch
    at_once: int = AT_ONCE
    over_padding: bool = False  # do means count padded positions?

    def __post_init__(self):
        if self.ablation not in ABLATIONS:
            raise UnknownName(self.ablation, "ablation of circuits:", ABLATIONS)

    def values(self, kept: Bool[np.ndarray, "K S"]) -> Float[np.ndarray, "K N"]:
        """M of each example for each of K circuits: where they keep all but some sites, exact
        patching of these.
        """
        if not len(kept):
            return np.zeros((0, len(self.real)))
        rows = -(-len(kept) // self.at_once) * self.at_once
        every = np.concatenate([kept, np.ones((rows - len(kept), kept.shape[1]), bool)])
        parts = []
        for start in range(0, rows, self.at_once):
            off = self.graph.off(every[start : start + self.at_once])
            parts.append([self._step(patched_step)(batch, off) for batch in self._placed])
        found = [np.concatenate(jax.device_get(part), axis=1) for part in parts]
        return np.concatenate(found).astype(np.float64)[: len(kept), self.real]

    def first_order(self, alphas: Sequence[float]) -> Float[np.ndarray, "S N"]:
        """Scores of all sites by the gradient; see `patching.attributed_step`."""
        step, at = self._step(attributed_step), np.asarray(alphas, np.float32)
        found = jax.device_get([step(batch, at) for batch in self._placed])
        return np.concatenate(found, axis=1).astype(np.float64)[:, self.real]

    @functools.cached_property
    def ends(self) -> Float[np.ndarray, "2 N"]:
        """M of the whole net on clean inputs, and on corrupt ones."""
        found = []
        for batch in self._placed:
            step = ends_step(self.net, self.metric, replicated_like(batch))
            found.append(jax.device_get(step(self.variables, batch)))
        return np.concatenate(found, axis=1).astype(np.float64)[:, self.real]

    @property
    def whole(self) -> Float[np.ndarray, "N"]:
        """M of the whole net."""
        return self.ends[0]

    @functools.cached_property
    def empty(self) -> Float[np.ndarray, "N"]:
        """M where nothing is kept."""
        return self.values(np.zeros((1, len(self.graph)), bool))[0]

    @functools.cached_property
    def real(self) -> Bool[np.ndarray, "R"]:
        """Which rows of all batches are examples."""
        found = []
        for batch in self._placed:
            copy = _copy_step(replicated_like(batch))
            found.append(jax.device_get(copy(batch["real"])) > 0)
        return np.concatenate(found)

    @functools.cached_property
    def _placed(self) -> list[Batch]:
        return [self.put(batch) for batch in self.batches]

    def _step(self, make: Callable) -> Callable[[Batch, Any], Any]:
        def call(batch: Batch, rest: Any) -> Any:
            out = replicated_like(batch)
            step = make(self.net, self.graph, self.metric, out)
            given, rest = (self._whole(x, out) for x in (self._given, rest))
            return step(self.variables, batch, given, rest)

        return call

    def _whole(self, tree: Any, out: Any) -> Any:
        return put_replicated(tree, out.mesh) if out else jax.device_put(tree)

    @functools.cached_property
    def _given(self) -> Mapping[str, Array]:
        """What sites take where they are not kept, [1, ...]; {} where the corrupt input says so."""
        if self.ablation == "interchange":
            return {}
        shapes = shapes_written(self.net, self.graph, self.batches[0])
        found = {name: np.zeros((), np.float32) for name in shapes}
        if self.ablation != "zero":
            found = self._means()
        return {k: np.broadcast_to(found[k], (1, *shape[1:])) for k, shape in shapes.items()}

    def _means(self) -> dict[str, Array]:
        totals, positional = None, self.ablation == "mean_positional"
        for batch in self._placed:
            out = replicated_like(batch)
            step = sums_step(self.net, self.graph, positional, self.over_padding, out)
            found = jax.device_get(step(self.variables, batch))
            totals = found if totals is None else jax.tree.map(np.add, totals, found)
        return {k: x / np.maximum(n, 1) for k, (x, n) in totals.items()}


@functools.lru_cache(maxsize=16)
def _copy_step(out: Any) -> Callable:
    return jax.jit(lambda x: x, out_shardings=out)
