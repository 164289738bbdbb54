"""The contract of a way of scoring sites: how much each node or edge does for what is measured."""

import abc
import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from fairkd_jax.circuits.problem import Problem


@dataclasses.dataclass(frozen=True)
class Scored:
    """Scores of all sites of a graph, and, where the method itself says so, which it keeps."""

    by_example: Float[np.ndarray, "S N"]  # what M gains where the site is not kept, or its estimate
    kept: Bool[np.ndarray, "S"] | None = None

    @property
    def mean(self) -> Float[np.ndarray, "S"]:
        return self.by_example.mean(axis=1)


@dataclasses.dataclass(frozen=True)
class Score(abc.ABC):
    """The contract of a file in `circuits/scores/`: a frozen dataclass of options."""

    def check(self, metric: str) -> None:
        """Raises ValueError for a metric of which the scores would mean nothing."""
        return None

    @abc.abstractmethod
    def scores(self, problem: Problem) -> Scored:
        """The sites of `problem.graph`, scored, the same at every call."""
