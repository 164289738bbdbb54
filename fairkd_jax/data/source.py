"""The examples of a split as arrays: rows by number, encoded by every view."""

from collections.abc import Mapping

import numpy as np

from fairkd_jax.data.dataset import Encoder, Split
from fairkd_jax.types import Batch, Inputs

KEPT_BYTES = 2**30  # views of a split that would be larger are encoded batch by batch
ROWS_AT_ONCE = 4096  # while encoding: bounds the memory beside the result


class Source:
    """The examples of a split, encoded by every view: rows by number."""

    def __init__(self, split: Split, encoders: Mapping[str, Encoder]):
        self.split = split
        self._encoders = encoders
        self._kept = {name: self._keep(encoder) for name, encoder in encoders.items()}

    def __len__(self) -> int:
        return len(self.split)

    def batch(self, rows: np.ndarray) -> Batch:
        """The examples of the given row numbers."""
        views = {
            name: Inputs(
                encoder.encode({k: v[rows] for k, v in self.split.columns.items()})
                if self._kept[name] is None
                else {k: v[rows] for k, v in self._kept[name].items()},
                encoder.facts["identity"],
            )
            for name, encoder in self._encoders.items()
        }
        columns = {k: self.split.columns[k][rows] for k in ("label", "attribute", "group", "id")}
        return {"views": views, **columns, "real": np.ones(len(rows), np.float32)}

    def augment(self, batch: Batch, seed: int, step: int) -> Batch:
        """The batch as training sees it at a step: what views draw is drawn."""
        views = {
            name: Inputs(
                self._encoders[name].augment(dict(arrays), batch["id"], seed, step),
                arrays.identity,
            )
            for name, arrays in batch["views"].items()
        }
        return batch | {"views": views}

    def require(self, view: str, rows: Mapping[str, int]) -> None:
        """Raises ValueError, with an example, where arrays of a view name rows that a net lacks.

        `rows` are those of `Architecture.rows`. What is too large to be kept is not looked at: such
        numbers then give NaN, which stops what runs.
        """
        kept = self._kept[view] or {}
        for name in rows.keys() & kept.keys():
            beyond = np.argwhere(kept[name] >= rows[name])
            if len(beyond):
                where = tuple(beyond[0])
                row, number = where[0], kept[name][where]
                identity = self.split.columns["id"][row]
                raw = {k: v[row] for k, v in self.split.columns.items() if v.dtype.kind in "UTO"}
                raise ValueError(
                    f"view {view!r} has {name} up to {kept[name].max()}, but the net's table has "
                    f"{rows[name]} rows: example {identity} has {number}: {raw}"
                )

    def _keep(self, encoder: Encoder) -> dict[str, np.ndarray] | None:
        one = encoder.encode({k: v[:1] for k, v in self.split.columns.items()})
        if sum(array.nbytes for array in one.values()) * len(self) > KEPT_BYTES:
            return None
        blocks = [
            encoder.encode({k: v[i : i + ROWS_AT_ONCE] for k, v in self.split.columns.items()})
            for i in range(0, len(self), ROWS_AT_ONCE)
        ]
        return {k: np.concatenate([block[k] for block in blocks]) for k in one}
