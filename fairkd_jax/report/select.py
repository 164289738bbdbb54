"""Which step a selection rule would have kept, found after the fact from a validation history.

Rules are named in `config.SELECTION_RULES`; elsewhere (arXiv 2007.01434, 2302.12254) val_average is
ValMeanAcc, val_worst_group ValWorstAccAttributeYes, val_worst_class ValWorstAccAttributeNo.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from fairkd_jax.config import SELECTION_RULES
from fairkd_jax.evaluation.fairness import SELECTED_BY
from fairkd_jax.evaluation.metrics import KINDS, kind, merit
from fairkd_jax.registry import UnknownName

TIED = "tied"
ONLY, FIRST, LAST = (f"at the {which} validated step" for which in ("only", "first", "last"))
DOUBTS = (TIED, ONLY, FIRST, LAST)


@dataclasses.dataclass(frozen=True)
class Choice:
    """A step that a rule keeps, and what makes it doubtful: of `DOUBTS`."""

    step: int
    doubts: tuple[str, ...] = ()


def select(
    history: Sequence[Mapping[str, int | float | None]], rule: str, split: str = "val"
) -> Choice:
    """The step kept of a history of lines `{"step": 50, "val/acc_avg": 0.9, ...}`.

    "last" is the last step; the others, and any metric's name, take the step with the best value
    of their metric on the validation split, of equals the one with the best average accuracy, then
    the latest. The choice is doubtful where steps tie in the rule's metric, and at an end of the
    validated steps: there the best may lie beyond. Raises UnknownName for an unknown rule,
    ValueError where the history is empty or never validated the rule's metric.
    """
    if rule not in SELECTION_RULES and not kind(rule).better:
        raise UnknownName(rule, "selection rule", (*SELECTION_RULES, *KINDS))
    if not history:
        raise ValueError(f"selection rule {rule!r}: the history has no lines")
    if rule == "last":
        return Choice(max(int(line["step"]) for line in history))
    name = SELECTED_BY.get(rule, rule)
    metric, average = f"{split}/{name}", f"{split}/acc_avg"
    scores = {
        int(line["step"]): (merit(name, line[metric]), _or_lowest(line.get(average)))
        for line in history
        if _or_lowest(line.get(metric)) > -math.inf
    }
    if not scores:
        raise ValueError(
            f"selection rule {rule!r} needs {metric!r}, which none of {len(history)} lines has:"
            " was train.eval_every 0?"
        )
    best = max(scores, key=lambda step: (*scores[step], step))
    ends = {FIRST: min(scores), LAST: max(scores)} if len(scores) > 1 else {ONLY: best}
    tied = sum(value == scores[best][0] for value, _ in scores.values()) > 1
    doubts = [doubt for doubt, step in ends.items() if step == best]
    return Choice(best, (*[TIED] * tied, *doubts))


def _or_lowest(value: float | None) -> float:
    return -math.inf if value is None or math.isnan(value) else value
