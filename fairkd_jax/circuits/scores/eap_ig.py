"""EAP-IG (arXiv 2403.17806, eq. 4, on inputs): attribution by the mean of gradients along a line.

The line leads from the corrupt to the clean input, where they enter the net as numbers. Of m steps
the authors' code has k = 0 ... m - 1 for edges, which holds the corrupt end, and 1 ... m for nodes.
"""

import dataclasses

from fairkd_jax.circuits.problem import Problem
from fairkd_jax.circuits.score import Score, Scored
from fairkd_jax.circuits.scores.attribution import check_slope
from fairkd_jax.registry import UnknownName

SHIFTS = {"corrupt": 0.0, "middle": 0.5, "clean": 1.0}


@dataclasses.dataclass(frozen=True)
class EapIg(Score):
    """By gradients at (k + shift) / m of the way, k = 0 ... m - 1."""

    steps: int = 5
    end: str = "corrupt"  # which end of the line is one of the points: corrupt | clean | middle

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"eap_ig: steps = {self.steps}, expected 1 or more")
        if self.end not in SHIFTS:
            raise UnknownName(self.end, "end of eap_ig:", SHIFTS)

    def check(self, metric: str) -> None:
        if self.end == "clean" and self.steps == 1:
            check_slope(metric, "eap_ig with one step at the clean end")

    def scores(self, problem: Problem) -> Scored:
        return Scored(
            problem.first_order([(k + SHIFTS[self.end]) / self.steps for k in range(self.steps)])
        )
