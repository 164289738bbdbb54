"""Attribution patching (arXiv 2310.10348), on edges EAP: the first order of exact patching.

Score of a site: the change there, dot the gradient of M there, on the clean input. Two passes and a
gradient for all sites together.
"""

import dataclasses

from fairkd_jax.circuits.problem import Problem
from fairkd_jax.circuits.score import Score, Scored


def check_slope(metric: str, name: str) -> None:
    """Raises ValueError for a metric whose gradient on the clean input is 0."""
    if metric == "kl":
        raise ValueError(
            f"circuits: scores by {name} of metric 'kl' are 0, for a divergence from the whole net "
            "is least, and flat, where nothing is changed. Use 'logit_difference', or eap_ig"
        )


@dataclasses.dataclass(frozen=True)
class Attribution(Score):
    """By the gradient on the clean input."""

    def check(self, metric: str) -> None:
        check_slope(metric, "attribution")

    def scores(self, problem: Problem) -> Scored:
        return Scored(problem.first_order([1.0]))
