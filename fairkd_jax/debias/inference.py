"""The contract of what is computed from examples in a stage of its own, and not by training a net.

Environments, clusters, weights, the answers of a classifier on features made by hand: columns by
example that follow from the split that is trained on and from the tables of earlier stages. A stage
of kind "infer" writes them as a table, and later stages read them in `batch["tables"]`. Or some
variables of a net, as a last layer fitted by a solver: a stage of kind "refit" leaves that net.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import ClassVar

import numpy as np

from fairkd_jax.data.dataset import Split
from fairkd_jax.registry import UnknownName, name_of
from fairkd_jax.types import Path

Columns = Mapping[str, np.ndarray]  # [N, ...], a row an example
Variables = Mapping[str, np.ndarray]  # parameters of a net by path: {"head/kernel": ...}
OF_ATTRIBUTES = ("attribute", "group", "member")


@dataclasses.dataclass(frozen=True)
class Inference:
    """The contract of a file in `debias/infer/`: a frozen dataclass of options.

    It overrides `columns`; or `variables`, and then says which in `replaces`. It runs once, in
    process 0, with NumPy, scikit-learn, or a loop of its own under `jax.jit`.

    `examples` are all that training draws from, extra ones included: label [N], id [N] and raw
    columns, which may be read only when rows are asked for: take `column[rows]`. Those with 0 in
    the column "labelled", where there is one, have no known label. `tables` are those of the
    stage's inputs by name, in the order of the examples.
    """

    tables: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # those it reads: columns by input's name
    elsewhere: ClassVar[tuple[str, ...]] = ()  # which are of another split: given as they lie
    needs: ClassVar[tuple[str, ...]] = ()  # raw columns of the data set that it reads
    replaces: ClassVar[str] = ""  # regular expression of the net's parameters that it gives anew
    sees_attributes: ClassVar[bool] = False  # may it be given attribute and group?
    places: ClassVar[tuple[str, ...]] = ()  # options that say where files lie

    def __init_subclass__(cls):
        hook = "variables" if cls.replaces else "columns"
        if getattr(cls, hook) is getattr(Inference, hook):
            told = f"replaces = {cls.replaces!r}"
            raise TypeError(f"{cls.__name__} says {told}, so it must define `{hook}`")

    def reads(self) -> Mapping[str, Path]:
        """The files that it reads, by a name that does not say where they lie."""
        return {}

    def check(self, examples: Split) -> None:
        """Raises ValueError, before any compute, for examples that it cannot work with."""

    def columns(self, examples: Split, tables: Mapping[str, Columns], seed: int) -> Columns:
        """The columns by name, [N, ...]: a pure function of its arguments and its options."""
        raise NotImplementedError

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises ValueError, before any compute, for parameters that it cannot give anew."""

    def variables(
        self, old: Variables, examples: Split, tables: Mapping[str, Columns], seed: int
    ) -> Variables:
        """New parameters of the paths and shapes of `old`: those that `replaces` matches."""
        raise NotImplementedError


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
    found = method.columns(shown_to(method, examples), tables, seed)
    return {name: _numbers(method, name, column) for name, column in found.items()}


def replaced(method: Inference, paths: Iterable[str]) -> list[str]:
    """The parameters that it gives anew. Raises ValueError where a net has none of them."""
    found = [path for path in paths if re.fullmatch(method.replaces, path)]
    if not found:
        raise ValueError(
            f"{_name(method)} gives anew what {method.replaces!r} matches, and the net has no such "
            f"parameter: {', '.join(paths)}"
        )
    return found


def variables_of(
    method: Inference, old: Variables, examples: Split, tables: Mapping[str, Columns], seed: int
) -> dict[str, np.ndarray]:
    """What it gives in the place of `old`, float32. Raises ValueError for other shapes."""
    found = method.variables(old, shown_to(method, examples), tables, seed)
    made = {name: np.float32(_numbers(method, name, value)) for name, value in found.items()}
    shapes, given = ({k: np.shape(v) for k, v in some.items()} for some in (old, made))
    if shapes != given:
        raise ValueError(f"{_name(method)} gives parameters {given} in the place of {shapes}")
    return made


def balanced(group: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Of each group as many rows as the rarest has: the first in `order`, rows in turn."""
    members = [order[group[order] == g] for g in np.unique(group)]
    return np.concatenate([rows[: min(map(len, members))] for rows in members])


def require_affine(method: Inference, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError unless the head is one product with a matrix, and a bias."""
    if {k: len(shape) for k, shape in shapes.items()} != {"head/kernel": 2, "head/bias": 1}:
        raise ValueError(
            f"{_name(method)} fits a head of one kernel and one bias, and this net's head has "
            f"{', '.join(sorted(shapes))}: use a method that trains it by gradient descent"
        )


def _numbers(method: Inference, name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
        raise ValueError(f"{_name(method)}: {name!r} holds more than finite numbers")
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int32)


def _name(method: Inference) -> str:
    return f"infer plugin {name_of(type(method))!r}"
