"""The examples of a split as arrays: rows by number, encoded by every view."""

import threading
from collections.abc import Collection, Mapping

import numpy as np

from fairkd_jax.data.dataset import Encoder, Split
from fairkd_jax.data.encoded import Encoded, Some, encoded
from fairkd_jax.data.samplers import Buckets, Draw, draw_by
from fairkd_jax.types import Batch, Inputs


class Source:
    """The examples of a split; a view encodes them when it is first asked for them."""

    def __init__(self, split: Split, encoders: Mapping[str, Encoder]):
        self.split = split
        self.encoders = encoders
        self._views: dict[str, Encoded] = {}
        self._making = threading.Lock()  # of a view: batches are read by several threads

    def __len__(self) -> int:
        return len(self.split)

    def try_views(self) -> None:
        """Raises what views raise that cannot encode this split: UnknownName, ValueError."""
        for encoder in self.encoders.values():
            encoder.encode(Some(self.split, slice(0, 1)))

    def view(self, name: str) -> Encoded:
        """The rows as a view encodes them."""
        with self._making:
            if name not in self._views:
                self._views[name] = self.encoded(name)
            return self._views[name]

    def encoded(self, view: str) -> Encoded:
        """What `view` keeps."""
        return encoded(self.split, self.encoders[view])

    def batch(
        self,
        rows: np.ndarray,
        lengths: Mapping[str, int] | None = None,
        views: Collection[str] | None = None,
    ) -> Batch:
        """The examples of the given row numbers.

        `lengths` are those that ragged views are padded to; left out, the longest that a view
        gives. `views`: those that are wanted; None: all.
        """
        chosen = self.encoders if views is None else sorted(views)
        columns = {k: self.split.columns[k][rows] for k in ("label", "attribute", "group", "id")}
        return {
            "views": {name: self._inputs(name, rows, lengths or {}) for name in chosen},
            **columns,
            "real": np.ones(len(rows), np.float32),
        }

    def _inputs(self, name: str, rows: np.ndarray, lengths: Mapping[str, int]) -> Inputs:
        facts = self.encoders[name].facts
        length = lengths.get(name, facts.get("length", 0))
        arrays = self.view(name).rows(rows, length)
        return Inputs(arrays, facts["identity"], self.encoders[name].scaling)

    def draw(
        self, sampler: str, seed: int, batch_size: int, buckets: Buckets | None = None
    ) -> Draw:
        """How a sampler draws batches of these rows. Raises as `samplers.draw_by`."""
        return draw_by(sampler, self.split, seed, batch_size, buckets)

    def extra(self) -> dict[str, Split]:
        """Examples beside those of the split, by the name of the augmentation that gives them."""
        return {}

    def counts(self, batch_size: int) -> np.ndarray:
        """Examples by group, [G], as drawn while the split is once gone through."""
        return self.split.counts()

    def with_labelled(self, batch: Batch, hide_attributes: bool) -> Batch:
        """The batch with "labelled", where of some examples the label is not known."""
        return batch

    def augment(self, batch: Batch, seed: int, step: int) -> Batch:
        """The batch as training sees it at a step: what views draw is drawn."""
        views = {
            name: Inputs(
                self.encoders[name].augment(dict(arrays), batch["id"], seed, step),
                arrays.identity,
                arrays.scaling,
            )
            for name, arrays in batch["views"].items()
        }
        return batch | {"views": views}

    def require(self, view: str, rows: Mapping[str, int]) -> None:
        """Raises ValueError, with an example, where arrays of a view name rows that a net lacks.

        `rows` are those of `Architecture.rows`. What is too large to be kept is not looked at: such
        numbers then give NaN, which stops what runs.
        """
        for name, limit in rows.items():
            if found := self.view(view).beyond(name, limit):
                row, number, largest = found
                one = slice(row, row + 1)
                identity = self.split.columns["id"][row]
                texts = {k: v for k, v in self.split.columns.items() if v.dtype.kind in "UTO"}
                raw = {k: v[one][0] for k, v in texts.items()}
                raise ValueError(
                    f"view {view!r} has {name} up to {largest}, but the net's table has {limit} "
                    f"rows: example {identity} has {number}: {raw}"
                )
