"""The contract of a source of bias: a stage that tells, by example, what a shortcut would answer.

A source knows no loss and a loss knows no source: methods with an option `bias` read the table, of
whichever source it is, by way of `debias/biased.py`. So all losses share what a source trains.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

from fairkd_jax.config import Stage, TableStage
from fairkd_jax.data.samplers import TOLD


@dataclasses.dataclass(frozen=True)
class Bias(abc.ABC):
    """The contract of a file in `debias/bias/`: a frozen dataclass of options."""

    @abc.abstractmethod
    def stage(self, base: Stage) -> Stage:
        """A stage that leaves a table with a row for each example of `base.config.data.split`.

        Its column "log_probs", float32 [N, C], has log-probabilities of the labels, in the order of
        the set's; where these are of a net, "logits" has what it said. `base` trains the net that
        is to be debiased: of its method, its teachers and its start the stage may know nothing.
        All that a source decides is in the stage. Raises ValueError where it cannot serve a base.
        """


def answers(
    base: Stage, share: float, changes: Mapping[str, Any], draw: Stage | None = None
) -> Stage:
    """The table of a net trained as the base is, but alone: plain ERM, from scratch, no teacher.

    For a share of the base's steps. `changes` are dotted keys of its config with other values;
    `draw` is a stage that says how it draws examples, of which it may see few: it is asked of all.
    """
    net = base.first_net(share).change(changes)
    net = dataclasses.replace(net, inputs={TOLD: draw} if draw else {})
    table = TableStage(columns=("log_probs", "logits"), split=base.config.data.split)
    return Stage("table", table, {"net": net})


def with_model(model: Any) -> dict[str, Any]:
    """What another model than the base's changes, of which rates by path are no longer true."""
    return {"model": dict(model), "optim.rates": {}} if model else {}


def check_above_0(source: str, **options: int | float) -> None:
    """Raises ValueError for an option that is no number above 0."""
    for name, value in options.items():
        if not value > 0:
            raise ValueError(f"bias {source!r}: {name} = {value}, expected a number above 0")
