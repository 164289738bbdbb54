"""Runs a net over a split, in evaluation mode: counts by group, or columns for a table."""

import collections
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Int, Shaped

from fairkd_jax.data.dataset import Info
from fairkd_jax.data.tables import COLUMNS
from fairkd_jax.evaluation.sums import Sums, count, finite_rows, label_map, recount, sizes_of
from fairkd_jax.models.net import Net
from fairkd_jax.registry import UnknownName
from fairkd_jax.sharding import replicated_like
from fairkd_jax.types import Batch, Outputs

Rows = Mapping[str, np.ndarray]
TOLD = ("label", "attribute", "group", "id", "member")  # to what decides; "member" where it is
AHEAD = 8  # batches in flight before the host waits for the oldest: bounds memory, hides latency


def evaluate(
    net: Net,
    variables: Mapping[str, Any],
    batches: Iterable[Batch],
    *,
    info: Info,
    label_names: tuple[str, ...],
    put: Callable[[Batch], Batch] = lambda batch: batch,
    decide: Callable[[Rows], np.ndarray] | None = None,
) -> Sums:
    """Sums over the real rows of all batches, int64 and float64 on the host of every process.

    `label_names` are the net's own; `put` places a batch on the devices. `decide` gives the net's
    class that rows are predicted to be, from `TOLD` and log_probs [n, C]; None: the largest.
    Raises ValueError where the net's labels do not match those of the set, FloatingPointError
    naming the examples on which its logits are not finite.
    """
    labels = tuple(label_map(label_names, info).tolist())
    sizes = sizes_of(info)

    def step(batch: Batch) -> tuple[Sums, dict[str, Any]]:
        told = tuple(k for k in TOLD if k in batch) if decide else ()
        counted = _count_step(net, tuple(sizes.items()), labels, told, replicated_like(batch))
        return counted(variables, batch)

    total, rows, wrong = Sums.zero(**sizes), 0, []
    for sums, columns in _run(step, batches, put):
        if decide:
            there = (columns["real"] > 0) & ~columns["wrong"]
            rows_there = {k: v[there] for k, v in columns["told"].items()}
            sums = recount(sums, rows_there, np.asarray(labels)[decide(rows_there)])
        total = total + sums
        rows += int(np.count_nonzero(columns["real"]))
        wrong.append(columns["id"][columns["wrong"]])
    _require_finite(wrong, rows, "logits")
    return total


def predict_columns(
    net: Net,
    variables: Mapping[str, Any],
    batches: Iterable[Batch],
    columns: tuple[str, ...],
    put: Callable[[Batch], Batch] = lambda batch: batch,
) -> tuple[Int[np.ndarray, "N"], dict[str, Shaped[np.ndarray, "N ..."]]]:
    """(ids, columns by name) of the real rows, in the order of the batches.

    Columns are those of `data/tables.py`. Raises UnknownName for a column that is not there, and
    FloatingPointError naming the examples on which the logits or a column are not finite.
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
    # of the logits first: a mistake is a number even where they are none
    _require_finite([rows["id"][rows["wrong"]]], len(rows["id"]), "logits")
    for name, column in rows["columns"].items():
        wrong = ~np.isfinite(column).reshape(len(column), -1).all(axis=1)
        _require_finite([rows["id"][wrong]], len(column), name)
    return rows["id"], rows["columns"]


def _require_finite(wrong: list[np.ndarray], rows: int, what: str) -> None:
    """Raises FloatingPointError where there are ids of examples whose `what` is not finite."""
    ids = [str(i) for part in wrong for i in part]
    if ids:
        raise FloatingPointError(
            f"{what} of the net are NaN or infinite on {len(ids)} of {rows} examples, ids "
            f"{', '.join(ids[:10])}{' ...' if len(ids) > 10 else ''}: it has diverged, and is not "
            "scored. Train it anew at a lower learning rate, with gradients clipped, or in float32"
        )


def _run(step: Callable, batches: Iterable[Batch], put: Callable) -> Iterable[Any]:
    """Results on the host, in order, with up to AHEAD batches computed before one is waited for."""
    waiting = collections.deque()
    for batch in batches:
        waiting.append(step(put(batch)))
        if len(waiting) > AHEAD:
            yield jax.device_get(waiting.popleft())
    yield from map(jax.device_get, waiting)


@functools.lru_cache(maxsize=128)
def _count_step(
    net: Net,
    sizes: tuple[tuple[str, int], ...],
    labels: tuple[int, ...],
    told: tuple[str, ...],
    out: Sharding | None,
) -> Callable:
    """Cached: stages that evaluate equal nets share one compiled program."""

    def step(variables, batch):
        outputs, _ = net.apply(variables, batch, train=False)
        sums = count(outputs.logits, batch, jnp.asarray(labels, jnp.int32), **dict(sizes))
        columns = _wrong_rows(outputs, batch)
        if told:
            log_probs = jax.nn.log_softmax(outputs.logits)
            columns["told"] = {k: batch[k] for k in told} | {"log_probs": log_probs}
        return sums, columns

    return jax.jit(step, out_shardings=out)


@functools.lru_cache(maxsize=128)
def _column_step(net: Net, functions: tuple, out: Sharding | None) -> Callable:
    def step(variables, batch):
        outputs, _ = net.apply(variables, batch, train=False)
        columns = {name: function(outputs, batch) for name, function in functions}
        return _wrong_rows(outputs, batch) | {"columns": columns}

    return jax.jit(step, out_shardings=out)


def _wrong_rows(outputs: Outputs, batch: Batch) -> dict[str, Any]:
    """Columns "id", "real" and "wrong": a real row whose logits are not finite."""
    wrong = (batch["real"] > 0) & ~finite_rows(outputs.logits)
    return {"id": batch["id"], "real": batch["real"], "wrong": wrong}
