"""The contract of what is inferred of examples in a stage of its own, and not by training a net.

Environments, clusters, weights, the answers of a classifier on features made by hand: numbers by
example that follow from the split that is trained on and from the tables of earlier stages. A stage
of kind "infer" writes them as a table, and later stages read them in `batch["tables"]`.
"""

import abc
import dataclasses
from collections.abc import Iterable, Mapping
from typing import ClassVar

import numpy as np

from fairkd_jax.data.dataset import Split
from fairkd_jax.registry import UnknownName, name_of
from fairkd_jax.types import Path

Columns = Mapping[str, np.ndarray]  # [N, ...], a row an example
OF_ATTRIBUTES = ("attribute", "group", "member")


@dataclasses.dataclass(frozen=True)
class Inference(abc.ABC):
    """The contract of a file in `debias/infer/`: a frozen dataclass of options.

    It runs once, in process 0, with NumPy, scikit-learn, or a loop of its own under `jax.jit`.
    """

    tables: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # those it reads: columns by input's name
    needs: ClassVar[tuple[str, ...]] = ()  # raw columns of the data set that it reads
    sees_attributes: ClassVar[bool] = False  # may it be given attribute and group?
    places: ClassVar[tuple[str, ...]] = ()  # options that say where files lie

    def reads(self) -> Mapping[str, Path]:
        """The files that it reads, by a name that does not say where they lie."""
        return {}

    def check(self, examples: Split) -> None:
        """Raises ValueError, before any compute, for examples that it cannot work with."""
        return None

    @abc.abstractmethod
    def columns(self, examples: Split, tables: Mapping[str, Columns], seed: int) -> Columns:
        """The columns by name, [N, ...]: a pure function of its arguments and its options.

        `examples` are all that training draws from, extra ones included: label [N], id [N] and raw
        columns, which may be read only when rows are asked for: take `column[rows]`. Those with
        0 in the column "labelled", where there is one, have no known label. `tables` are those of
        the stage's inputs by name, in the order of the examples.
        """


def check(method: Inference, examples: Split, tables: Mapping[str, Iterable[str]]) -> None:
    """Raises UnknownName and ValueError where it cannot run on these examples.

    `tables` are the columns that its inputs will have, by name, as far as they are known.
    """
    for column in method.needs:
        if column not in examples.columns:
            raise UnknownName(column, f"raw column, read by {_name(method)}:", examples.columns)
    for table, columns in tables.items():
        for column in method.tables.get(table, ()):
            if column not in columns:
                raise UnknownName(column, f"column of {table!r}, read by {_name(method)}:", columns)
    method.check(shown_to(method, examples))


def shown_to(method: Inference, examples: Split) -> Split:
    """The examples as the method may see them."""
    hidden = () if method.sees_attributes else OF_ATTRIBUTES
    shown = {k: v for k, v in examples.columns.items() if k not in hidden}
    return dataclasses.replace(examples, columns=shown)


def columns_of(
    method: Inference, examples: Split, tables: Mapping[str, Columns], seed: int
) -> dict[str, np.ndarray]:
    """What it infers, numbers of four bytes. Raises ValueError for what is no number."""
    found = {}
    for name, column in method.columns(shown_to(method, examples), tables, seed).items():
        column = np.asarray(column)
        if column.dtype.kind not in "fiub" or not np.isfinite(column).all():
            raise ValueError(f"{_name(method)}: column {name!r} holds more than finite numbers")
        found[name] = column.astype(np.float32 if column.dtype.kind == "f" else np.int32)
    return found


def _name(method: Inference) -> str:
    return f"infer plugin {name_of(type(method))!r}"
