"""Activation patching: M with one site replaced, less M of the whole net (arXiv 2309.16042).

One pass for each site: what the others estimate.
"""

import dataclasses

import numpy as np

from fairkd_jax.circuits.problem import Problem
from fairkd_jax.circuits.score import Score, Scored


@dataclasses.dataclass(frozen=True)
class Exact(Score):
    """Each site by itself."""

    def scores(self, problem: Problem) -> Scored:
        size = len(problem.graph)
        found = []
        for start in range(0, size, problem.at_once):  # as many as are computed together
            sites = np.arange(start, min(start + problem.at_once, size))
            found.append(problem.values(np.arange(size) != sites[:, None]))
        return Scored(np.concatenate(found) - problem.whole)
