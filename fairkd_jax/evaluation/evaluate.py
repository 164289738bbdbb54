"""Runs a net over a split, in evaluation mode: counts by group, or columns for a table."""

import collections
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Int, Shaped

from fairkd_jax.data.dataset import Info
from fairkd_jax.data.tables import COLUMNS
from fairkd_jax.evaluation.sums import Sums, count, label_map
from fairkd_jax.models.net import Net
from fairkd_jax.registry import UnknownName
from fairkd_jax.sharding import replicated_like
from fairkd_jax.types import Batch

AHEAD = 8  # batches in flight before the host waits for the oldest: bounds memory, hides latency


def evaluate(
    net: Net,
    variables: Mapping[str, Any],
    batches: Iterable[Batch],
    *,
    info: Info,
    label_names: tuple[str, ...],
    put: Callable[[Batch], Batch] = lambda batch: batch,
) -> Sums:
    """Sums over the real rows of all batches, int64 and float64 on the host of every process.

    `label_names` are the net's own; `put` places a batch on the devices.
    Raises ValueError where the net's labels do not match those of the set.
    """
    labels = label_map(label_names, info)
    sizes = (len(info.group_names), len(info.label_names))

    def step(batch: Batch) -> Sums:
        return _count_step(net, *sizes, replicated_like(batch))(variables, batch, labels)

    total = Sums.zero(*sizes)
    for sums in _run(step, batches, put):
        total = total + sums
    return total


def predict_columns(
    net: Net,
    variables: Mapping[str, Any],
    batches: Iterable[Batch],
    columns: tuple[str, ...],
    put: Callable[[Batch], Batch] = lambda batch: batch,
) -> tuple[Int[np.ndarray, "N"], dict[str, Shaped[np.ndarray, "N ..."]]]:
    """(ids, columns by name) of the real rows, in the order of the batches.

    Columns are those of `data/tables.py`. Raises UnknownName for a column that is not there.
    """
    for name in columns:
        if name not in COLUMNS:
            raise UnknownName(name, "table column", COLUMNS)
    functions = tuple((name, COLUMNS[name]) for name in columns)

    def step(batch: Batch) -> dict[str, Any]:
        return _column_step(net, functions, replicated_like(batch))(variables, batch)

    parts = [
        jax.tree.map(lambda x, real=rows["real"]: x[real > 0], rows)
        for rows in _run(step, batches, put)
    ]
    rows = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    return rows["id"], rows["columns"]


def _run(step: Callable, batches: Iterable[Batch], put: Callable) -> Iterable[Any]:
    """Results on the host, in order, with up to AHEAD batches computed before one is waited for."""
    waiting = collections.deque()
    for batch in batches:
        waiting.append(step(put(batch)))
        if len(waiting) > AHEAD:
            yield jax.device_get(waiting.popleft())
    yield from map(jax.device_get, waiting)


@functools.lru_cache(maxsize=128)
def _count_step(net: Net, num_groups: int, num_labels: int, out: Sharding | None) -> Callable:
    """Cached: stages that evaluate equal nets share one compiled program."""

    def step(variables, batch, labels):
        outputs, _ = net.apply(variables, batch, train=False)
        return count(outputs.logits, batch, labels, num_groups=num_groups, num_labels=num_labels)

    return jax.jit(step, out_shardings=out)


@functools.lru_cache(maxsize=128)
def _column_step(net: Net, functions: tuple, out: Sharding | None) -> Callable:
    def step(variables, batch):
        outputs, _ = net.apply(variables, batch, train=False)
        columns = {name: function(outputs, batch) for name, function in functions}
        return {"id": batch["id"], "real": batch["real"], "columns": columns}

    return jax.jit(step, out_shardings=out)
