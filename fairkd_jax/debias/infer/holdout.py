"""A part of the training split that a first training never draws, for what comes after it."""

import dataclasses

import numpy as np

from fairkd_jax.data.samplers import NEVER
from fairkd_jax.debias.inference import Inference


@dataclasses.dataclass(frozen=True)
class Holdout(Inference):
    """Columns "held", 1 for a share of the examples drawn by the seed, and "first" for the rest."""

    share: float = 0.2

    def __post_init__(self):
        if not 0 < self.share < 1:
            raise ValueError(f"holdout: share = {self.share}, expected above 0 and below 1")

    def columns(self, examples, tables, seed):
        """A share of all examples, whatever their label."""
        count = len(examples.columns["label"])
        held = np.zeros(count, np.int32)
        held[np.random.default_rng(seed).permutation(count)[: round(self.share * count)]] = 1
        return {"held": held, "first": np.where(held, NEVER, 0)}
