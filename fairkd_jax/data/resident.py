"""A split that lives on the devices: a step is sent the numbers of its rows, and gathers them."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from fairkd_jax.data.encoded import Tokens
from fairkd_jax.data.source import Source
from fairkd_jax.data.tables import Table
from fairkd_jax.types import Array, Batch, Inputs

BOUND = 2**30  # bytes on each device: the whole split lies on every one


@struct.dataclass
class Rows:
    """A batch by its row numbers."""

    rows: Array  # int32 [B]
    lengths: tuple = struct.field(pytree_node=False, default=())  # (view, length) of ragged ones


@struct.dataclass
class Resident:
    """Everything that batches hold, by row."""

    columns: dict[str, Any]  # [N]
    tables: dict[str, Any]  # [N, ...], in the split's order
    views: dict[str, Any]  # whole: {name: [N, ...]}; ragged: that of `flat`, "starts", "lengths"
    told: tuple = struct.field(pytree_node=False)  # (view, identity, scaling, fill or None)

    def batch(self, chosen: Rows) -> Batch:
        """The rows, gathered on the device: arrays equal those that the host would have sent."""
        rows, lengths = chosen.rows, dict(chosen.lengths)
        views = {}
        for name, identity, scaling, fill in self.told:
            arrays = self.views[name]
            if fill is None:
                found = {k: v[rows] for k, v in arrays.items()}
            else:
                found = _padded(arrays, rows, lengths[name], dict(fill))
            views[name] = Inputs(found, identity, scaling)
        batch = {"views": views, **{k: v[rows] for k, v in self.columns.items()}}
        batch["real"] = jnp.ones(rows.shape, jnp.float32)
        tables = jax.tree.map(lambda v: v[rows], self.tables)
        return batch | ({"tables": tables} if tables else {})


def _padded(arrays: dict, rows: Array, length: int, fill: Mapping[str, int]) -> dict[str, Array]:
    place = jnp.arange(length)
    there = place < arrays["lengths"][rows][:, None]
    where = arrays["starts"][rows][:, None] + jnp.where(there, place, 0)
    found = {"mask": there.astype(jnp.int32)}
    for name, flat in arrays["flat"].items():
        found[name] = jnp.where(there, flat[where].astype(jnp.int32), fill.get(name, 0))
    return found


def resident(
    source: Source, tables: Mapping[str, Table], views: Collection[str], columns: Collection[str]
) -> Resident:
    """Host arrays of all rows, to be put on the devices. ValueError where they are too large."""
    arrays: dict[str, Any] = {}
    told = []
    for name in sorted(views):
        encoder, rows = source.encoders[name], source.view(name)
        fill = None
        if isinstance(rows, Tokens):
            fill = tuple(encoder.fill.items())
            # the numbers of tokens are below 2 ** 31, for BOUND is
            starts = rows.starts.astype(np.int32)
            arrays[name] = {"flat": dict(rows.flat), "starts": starts, "lengths": rows.lengths}
        else:
            one = rows.rows(np.arange(1), 0)
            _check(sum(v.nbytes for v in one.values()) * len(source))
            arrays[name] = rows.rows(np.arange(len(source)), 0)
        told.append((name, encoder.facts["identity"], encoder.scaling, fill))
    ids = source.split.columns["id"]
    joined = {name: table.join(ids) for name, table in tables.items()}
    own = {k: source.split.columns[k] for k in columns}
    found = Resident(own, joined, arrays, tuple(told))
    _check(sum(x.nbytes for x in jax.tree.leaves(found)))
    return found


def _check(size: int) -> None:
    if size > BOUND:
        raise ValueError(
            f"data.resident: the split takes {size / 2**20:.0f} MiB on each device, more than "
            f"{BOUND / 2**20:.0f}: leave data.resident at False"
        )
