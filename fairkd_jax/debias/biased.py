"""What losses with an option `bias` share: its sources' stages, and what these say of a batch.

The option holds a source of `debias/bias/`, {"name": "self_debias", "examples": 500}, or a list of
them. Joined, they are a product of experts, whose log-probabilities sum; a loss that asks how far
they know the label takes the mean of their probabilities (robust-nli, arXiv 1909.06321).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from fairkd_jax import registry
from fairkd_jax.config import Stage
from fairkd_jax.types import Batch, Now


@struct.dataclass
class Biased:
    """The option, mixed into a method: its tables are "bias", "bias1", ..., one a source."""

    bias: tuple[Any, ...] = struct.field(pytree_node=False, default=(("name", "weak_learner"),))

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(_specs(self.bias))

    def stages(self, base: Stage) -> Stage:
        """The base, reading what the sources' stages write.

        Raises ValueError as `registry.build` and the sources do.
        """
        built = {name: registry.build("bias", spec) for name, spec in _specs(self.bias).items()}
        return base.hang(**{name: source.stage(base) for name, source in built.items()})


def _specs(bias: tuple) -> dict[str, dict[str, Any]]:
    """The configs of the sources by the names of their tables; `bias` is frozen: pairs, or tuples
    of pairs. Raises ValueError for what is no config.
    """
    try:
        found = [dict(spec) for spec in ((bias,) if isinstance(bias[0][0], str) else bias)]
    except (IndexError, TypeError, ValueError):
        raise ValueError(
            f"bias = {bias}: expected a source, {{'name': ...}}, or a list of them. Choices: "
            f"{', '.join(registry.choices('bias'))}"
        ) from None
    return {f"bias{i or ''}": spec for i, spec in enumerate(found)}


def read(batch: Batch, table: str, *columns: str) -> Float[Array, "B C"]:
    """The first of the columns that a table has; 0 in padding rows."""
    values = next(batch["tables"][table][c] for c in columns if c in batch["tables"][table])
    return jnp.where(batch["real"][:, None] > 0, values, 0)


def product(method: Biased, batch: Batch) -> Float[Array, "B C"]:
    """The sum of the sources' log-probabilities: of their product, up to what normalises it."""
    return sum(read(batch, table, "log_probs") for table in _specs(method.bias))


def doubt(
    method: Biased, batch: Batch, exponent: Any = 1.0, join: str = "mean"
) -> Float[Array, "B"]:
    """`1 - p(label)`, from 0 (the bias alone gives the answer) to 1, of probabilities `p^exponent`.

    These are normalised anew. Of several sources p is the mean, or the "product" as it is.
    """
    right = []
    for table in _specs(method.bias):
        powers = jax.nn.log_softmax(exponent * read(batch, table, "log_probs"))
        right.append(jnp.take_along_axis(powers, batch["label"][:, None], axis=1)[:, 0])
    if join == "product":
        return -jnp.expm1(sum(right))
    return sum(-jnp.expm1(log_p) for log_p in right) / len(right)


def annealed(to: Any, now: Now) -> Any:
    """The exponent of arXiv 2009.12303: 1 at the first step, then linearly towards `to`.

    The step after the last would reach it; in the authors' code, as many later as there are epochs.
    """
    return 1 - (1 - to) * now.step / now.steps


def check_annealing(method: str, to: Any) -> None:
    """Raises ValueError for an exponent to end at that is no share."""
    if not 0 <= to <= 1:
        raise ValueError(
            f"{method}: anneal_to = {float(to):g}, expected a number from 0 to 1 (1: never)"
        )
