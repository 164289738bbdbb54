"""Which step a selection rule would have kept, found after the fact from a validation history.

Rules are named in `config.SELECTION_RULES`; elsewhere (arXiv 2007.01434, 2302.12254) val_average is
ValMeanAcc, val_worst_group ValWorstAccAttributeYes, val_worst_class ValWorstAccAttributeNo.
"""

import math
from collections.abc import Mapping, Sequence

from fairkd_jax.config import SELECTION_RULES
from fairkd_jax.evaluation.fairness import SELECTED_BY
from fairkd_jax.registry import UnknownName


def select(
    history: Sequence[Mapping[str, int | float | None]], rule: str, split: str = "val"
) -> int:
    """The step kept of a history of lines `{"step": 50, "val/acc_avg": 0.9, ...}`.

    "last" is the last step; the others take the step with the highest value of their metric on the
    validation split, the earliest of equals. Raises UnknownName for an unknown rule, ValueError
    where the history is empty or never validated the rule's metric.
    """
    if rule not in SELECTION_RULES:
        raise UnknownName(rule, "selection rule", SELECTION_RULES)
    if not history:
        raise ValueError(f"selection rule {rule!r}: the history has no lines")
    if rule == "last":
        return max(int(line["step"]) for line in history)
    metric = f"{split}/{SELECTED_BY[rule]}"
    scores = {int(line["step"]): line[metric] for line in history if _defined(line.get(metric))}
    if not scores:
        raise ValueError(
            f"selection rule {rule!r} needs {metric!r}, which none of {len(history)} lines has:"
            " was train.eval_every 0?"
        )
    return min(scores, key=lambda step: (-scores[step], step))


def _defined(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
