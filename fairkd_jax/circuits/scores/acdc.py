"""ACDC (arXiv 2304.14997, algorithm 1): greedy pruning from the output on.

A site is left out for good where M falls by less than `threshold` without it, of what it is then.
The result hangs on the order: last readers first, of each its last writers first. Edges from nodes
that none leaves any more are left out without being tried. The paper's M is the metric "kl".
"""

import dataclasses

import numpy as np

from fairkd_jax.circuits.problem import Problem
from fairkd_jax.circuits.score import Score, Scored


@dataclasses.dataclass(frozen=True)
class Acdc(Score):
    """Scores are what M gained when a site was tried; the circuit is what was kept."""

    threshold: float = 0.01
    absolute: bool = False  # is a site kept, too, without which M rises by as much?

    def __post_init__(self):
        if self.threshold < 0:
            raise ValueError(f"acdc: threshold = {self.threshold}, expected 0 or more")

    def scores(self, problem: Problem) -> Scored:
        graph = problem.graph
        kept, current = np.ones(len(graph), bool), problem.whole
        scores = np.zeros((len(graph), len(current)))
        waiting = [int(i) for i in graph.backwards]
        while waiting:
            alive = graph.pruned(kept)
            kept[[i for i in waiting if not alive[i]]] = False
            waiting = [i for i in waiting if alive[i]]
            # Most sites are left out: several are tried together, each without those before it,
            # and what is found of those behind the first that is kept is not looked at.
            tried = waiting[: problem.at_once]
            without = np.repeat(kept[None], len(tried), axis=0)
            for row, site in enumerate(tried):
                without[row:, site] = False
            found = problem.values(without)
            for site, value in zip(tried, found):
                waiting.remove(site)
                scores[site] = value - current
                harm = -scores[site].mean()
                if (abs(harm) if self.absolute else harm) >= self.threshold:
                    break
                kept[site], current = False, value
        return Scored(scores, graph.pruned(kept))
