"""A few examples at random, which alone a net is to be trained on."""

import dataclasses

import numpy as np

from fairkd_jax.data.samplers import NEVER
from fairkd_jax.debias.inference import Inference


@dataclasses.dataclass(frozen=True)
class Few(Inference):
    """Column "first": 0 for so many examples, or all where there are no more; never for others."""

    count: int = 2000

    def __post_init__(self):
        if self.count < 1:
            raise ValueError(f"few: count = {self.count}, expected a number from 1 on")

    def columns(self, examples, tables, seed):
        """Drawn by the seed, whatever their label."""
        order = np.random.default_rng(seed).permutation(len(examples))
        return {"first": np.where(order < self.count, 0, NEVER)}
