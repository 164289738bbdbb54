"""Reads what layers of nets say of examples: taps by name, pooled to one row an example.

Pooling "mean" averages over the axes between example and channel: over real tokens where the net's
view has a mask of their number, over space in images. "first" takes the first token ([CLS]). The
heads of `head_out`, queries, keys and values are kept side by side.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array as JaxArray
from jaxtyping import Float, Shaped

from fairkd_jax.models.net import Net
from fairkd_jax.registry import UnknownName
from fairkd_jax.sharding import replicated_like
from fairkd_jax.types import Array, Batch

POOLS = ("mean", "first")
Reader = tuple[Net, Mapping[str, Any], str]
"""A net, its variables, and a regular expression over the names of the taps to read."""


def collect(
    reader: Reader,
    batches: Iterable[Batch],
    *,
    pool: str = "mean",
    put: Callable[[Batch], Batch] = lambda batch: batch,
) -> tuple[dict[str, Float[np.ndarray, "N _"]], dict[str, Shaped[np.ndarray, "N"]]]:
    """(float32 features by tap, columns "id" and "group") of the real rows of all batches."""
    parts = [(taps[0], rows) for taps, rows in read([reader], batches, pool=pool, put=put)]
    return join([taps for taps, _ in parts]), join([rows for _, rows in parts])


def join(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Dicts of columns, one after the other; keys keep their order."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def read(
    readers: Sequence[Reader],
    batches: Iterable[Batch],
    *,
    pool: str = "mean",
    put: Callable[[Batch], Batch] = lambda batch: batch,
) -> Iterator[tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray]]]:
    """For each batch, on the host: features by tap for each reader, and columns "id" and "group".

    Only real rows are there. Raises UnknownName for an unknown pooling or taps that no layer has,
    ValueError for taps that cannot be pooled.
    """
    for taps, batch in taps_of(readers, batches, pool=pool, put=put, gathered=True):
        rows = jax.device_get(columns_of(batch))
        real = rows.pop("real") > 0
        yield (
            [{name: jax.device_get(x)[real] for name, x in net.items()} for net in taps],
            {name: x[real] for name, x in rows.items()},
        )


def taps_of(
    readers: Sequence[Reader],
    batches: Iterable[Batch],
    *,
    pool: str = "mean",
    put: Callable[[Batch], Batch] = lambda batch: batch,
    gathered: bool = False,
) -> Iterator[tuple[list[dict[str, Float[JaxArray, "B _"]]], Batch]]:
    """For each batch features by tap for each reader, on the devices, and the batch as it was put.

    All rows are there, split over devices as the batch is, or on every device where `gathered`.
    Raises what `read` raises.
    """
    if pool not in POOLS:
        raise UnknownName(pool, "pooling", POOLS)
    for batch in batches:
        batch = put(batch)
        out = replicated_like(batch) if gathered else None
        yield (
            [_step(net, save, pool, out)(variables, batch) for net, variables, save in readers],
            batch,
        )


def columns_of(batch: Batch) -> dict[str, Shaped[JaxArray, "B"]]:
    """Columns "id", "group" and "real" of a batch, on every device."""
    names = ("id", "group", "real")
    return _rows_step(replicated_like(batch))({name: batch[name] for name in names})


@functools.lru_cache(maxsize=128)
def _step(net: Net, save: str, pool: str, out: Sharding | None) -> Callable:
    """Cached: comparisons of equal nets share one compiled program."""
    names = []  # a jitted function returns dicts with sorted keys; layers keep the net's order

    def step(variables, batch):
        outputs, _ = net.apply(variables, batch, train=False, save=save)
        mask = batch["views"][net.view].get("mask")
        names[:] = outputs.taps
        return [pooled(name, x, mask, pool) for name, x in outputs.taps.items()]

    jitted = jax.jit(step, out_shardings=out)
    return lambda variables, batch: dict(zip(names, jitted(variables, batch)))


@functools.lru_cache(maxsize=128)
def _rows_step(out: Sharding | None) -> Callable:
    return jax.jit(lambda rows: rows, out_shardings=out)


def pooled(
    name: str, x: Shaped[Array, "B ..."], mask: Shaped[Array, "B T"] | None, pool: str
) -> Float[JaxArray, "B D"]:
    """One float32 row an example of the tap `name`, by the rules above.

    Raises ValueError for attention probabilities, and for the first token of what has no tokens.
    """
    if name.endswith(("_scores", "_probs")):
        kind = "scores" if name.endswith("_scores") else "probabilities"
        raise ValueError(f"tap {name!r} holds attention {kind}: no features to compare")
    x = jnp.asarray(x, jnp.float32)
    if name.endswith(("head_out", "_query", "_key", "_value")):
        x = x.reshape(*x.shape[:2], -1)
    if x.ndim == 2:
        return x
    if pool == "first":
        if x.ndim != 3:
            raise ValueError(f"tap {name!r} of shape {x.shape} has no first token: pool by mean")
        return x[:, 0]
    if mask is not None and x.shape[1] == mask.shape[1]:
        real = (mask > 0)[:, :, None]
        return jnp.sum(jnp.where(real, x, 0), axis=1) / jnp.maximum(jnp.sum(real, axis=1), 1)
    return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))
