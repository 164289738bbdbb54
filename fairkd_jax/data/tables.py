"""Tables: columns by example id that one stage writes and a later stage joins into its batches.

A folder with `id.npy`, one `<column>.npy` a column and `about.json`, renamed into place when whole.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fairkd_jax import buckets, files, losses
from fairkd_jax.types import Array, Batch, Outputs, Path


def _known(batch: Batch) -> Array | float:
    return batch.get("labelled", 1.0)


COLUMNS: Mapping[str, Callable[[Outputs, Batch], Array]] = {
    "logits": lambda outputs, batch: outputs.logits,
    "log_probs": lambda outputs, batch: jax.nn.log_softmax(outputs.logits),
    "features": lambda outputs, batch: outputs.features,
    "mistake": lambda outputs, batch: (
        _known(batch) * (jnp.argmax(outputs.logits, axis=1) != batch["label"])
    ),
    "loss": lambda outputs, batch: (
        _known(batch) * losses.cross_entropy(outputs.logits, batch["label"])
    ),
}
"""Columns by name, float32 [B, ...], from a net's outputs on a batch.

What compares with a label is 0 for an example whose label is unknown.
"""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table on disk, its columns memory-mapped."""

    folder: Path
    about: Mapping[str, Any]
    id: np.ndarray  # [N], ascending
    columns: Mapping[str, np.ndarray]  # [N, ...]

    def rows(self, identity: np.ndarray) -> np.ndarray:
        """Where the examples are in the columns. Raises ValueError naming ids that are missing."""
        place = np.searchsorted(self.id, identity)
        found = np.take(self.id, place, mode="clip") == identity if len(self.id) else place < 0
        if not found.all():
            missing = np.asarray(identity)[~found]
            raise ValueError(
                f"table {self.folder} has no row for {len(missing)} of {len(found)} example ids: "
                f"{', '.join(map(str, missing[:10]))}{' ...' if len(missing) > 10 else ''}"
            )
        return place

    def join(self, identity: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of the given examples, in their order."""
        rows = self.rows(identity)
        return {name: column[rows] for name, column in self.columns.items()}


def write_table(
    folder: str | os.PathLike,
    id: np.ndarray,
    columns: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
) -> None:
    """Writes a table, in place of any that was there; `about` is what JSON can say.

    Raises ValueError for repeated ids, columns of another length or names that are no file names.
    """
    folder, id = buckets.path(folder), np.asarray(id)
    order = np.argsort(id, kind="stable")
    if len(np.unique(id)) != len(id):
        raise ValueError(f"table {folder}: example ids repeat")
    for name, column in columns.items():
        if name == "id" or not re.fullmatch(r"\w+", name):
            raise ValueError(f"table {folder}: {name!r} cannot be the name of a column")
        if len(column) != len(id):
            raise ValueError(
                f"table {folder}: column {name!r} has {len(column)} rows for {len(id)} ids"
            )
    arrays = {"id": id[order]} | {k: np.asarray(v)[order] for k, v in columns.items()}
    # In a bucket nothing is renamed: a table is there when its about.json is, which comes last.
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    partial = partial if buckets.is_local(folder) else folder
    files.remove(partial)
    files.make(partial)
    for name, array in arrays.items():
        with (partial / f"{name}.npy").open("wb") as file:
            np.save(file, array, allow_pickle=False)
    shapes = {k: [str(v.dtype), list(v.shape)] for k, v in arrays.items()}
    (partial / "about.json").write_text(json.dumps({"arrays": shapes, "about": dict(about)}))
    if partial != folder:
        files.remove(folder)
        partial.rename(folder)


def read_table(folder: str | os.PathLike) -> Table:
    """The table in a folder. Raises FileNotFoundError if there is none, ValueError if damaged."""
    folder = buckets.path(folder)
    if not (folder / "about.json").is_file():
        raise FileNotFoundError(f"no table in {folder}")
    try:
        content = json.loads((folder / "about.json").read_text())
        arrays = {}
        for name, (dtype, shape) in content["arrays"].items():
            file = buckets.near(folder / f"{name}.npy")
            array = np.load(file, mmap_mode="r" if 0 not in shape else None)
            if [str(array.dtype), list(array.shape)] != [dtype, shape]:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, not {dtype} {shape}")
            arrays[name] = array
        identity = np.array(arrays.pop("id"))
        return Table(folder, content["about"], identity, arrays)
    except (ValueError, KeyError, TypeError, OSError, EOFError) as error:
        raise ValueError(
            f"table {folder} is damaged; remove it to make it again: {error}"
        ) from error
