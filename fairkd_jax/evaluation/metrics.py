"""What each metric is: between what values it lies, which way is better, what is compared of it.

A signed gap, such as `gap_aligned`, is best at 0: -.89 is as far from fair as +.89. What is
compared of it, seed by seed, is its distance from 0. Its own values keep their sign.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

Limits = tuple[float, float]
ANYTHING: Limits = (-math.inf, math.inf)


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a metric is to be read."""

    limits: Limits  # of its values
    better: int  # 1: higher is better, -1: lower is, 0: not known
    signed: bool = False  # a gap that may lie on both sides of 0, where it is best

    @property
    def compared_limits(self) -> Limits:
        """Between what values that lies which `compared` makes of the metric."""
        return (0.0, self.limits[1]) if self.signed else self.limits

    @property
    def share(self) -> bool:
        """Is it a share of examples, or a difference of two?"""
        return self.limits[1] == 1.0


SHARE = Kind((0.0, 1.0), 1)
ERROR = Kind((0.0, 1.0), -1)
GAP = Kind((-1.0, 1.0), -1, signed=True)
KINDS = {  # by the metric's name up to "/"
    "accuracy": SHARE,
    "acc_avg": SHARE,
    "adj_acc_avg": SHARE,
    "acc_group": SHARE,
    "mean_group_accuracy": SHARE,
    "worst_group_accuracy": SHARE,
    "acc_subpopulation": SHARE,
    "worst_subpopulation_accuracy": SHARE,
    "acc_wg": SHARE,
    "balanced_accuracy": SHARE,
    "worst_class_accuracy": SHARE,
    "macro_f1": SHARE,
    "acc_aligned": SHARE,
    "acc_conflicting": SHARE,
    "ece": ERROR,
    "gap_worst_group": ERROR,  # an average minus the lowest of its parts is never negative
    "demographic_parity_difference": ERROR,  # largest minus smallest rate: neither are these
    "equalized_odds_difference": ERROR,
    "equal_opportunity_difference": ERROR,
    "gap_aligned": GAP,
    "gap_attribute": GAP,
    "gap_id_ood": GAP,
    "loss": Kind((0.0, math.inf), -1),
    "brier_score": Kind((0.0, 2.0), -1),
}
UNDECLARED = Kind(ANYTHING, 0)  # no verdict is made of a number whose better side is not known


def kind(metric: str) -> Kind:
    """How to read a metric; `UNDECLARED` for one that `KINDS` does not hold."""
    return KINDS.get(metric.partition("/")[0], UNDECLARED)


def merit(metric: str, value: float) -> float:
    """What is largest where the metric is best; 0 where it is not known which way is better."""
    this = kind(metric)
    return this.better * (abs(value) if this.signed else value)


def compared(metric: str, values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """What differences and ratios are made of: the values, or a signed gap's distances from 0."""
    return np.abs(values) if kind(metric).signed else values
