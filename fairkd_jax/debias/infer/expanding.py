"""When each example is first drawn (PDE, arXiv 2306.04949): a balanced subset, then ever more.

As many examples of each group as the rarest has, for some epochs of that subset; then, every few
epochs of what is drawn from by then, some more of all the others, in an order drawn by the seed.
"""

import dataclasses

import numpy as np

from fairkd_jax.data.samplers import NEVER
from fairkd_jax.debias.inference import Inference, balanced


@dataclasses.dataclass(frozen=True)
class Expanding(Inference):
    """Column "first": the step from which on an example is drawn."""

    sees_attributes = True

    batch_size: int = 128
    warmup_epochs: int = 15  # of the balanced subset
    added: int = 10  # examples at a time
    every_epochs: int = 10  # of those drawn from by then

    def __post_init__(self):
        if min(dataclasses.astuple(self)) < 1:
            raise ValueError(f"{self}: expected numbers from 1 on")

    def columns(self, examples, tables, seed):
        """The balanced subset at step 0, others by turns."""
        group = examples.columns["group"]
        order = np.random.default_rng(seed).permutation(len(group))
        subset = balanced(group, order)
        rest = order[~np.isin(order, subset)]
        first = np.zeros(len(group), np.int64)
        size, step = len(subset), self.warmup_epochs * self._epoch(len(subset))
        for k in range(0, len(rest), self.added):
            first[rest[k : k + self.added]] = min(step, NEVER)
            size = len(subset) + min(k + self.added, len(rest))
            step += self.every_epochs * self._epoch(size)
        return {"first": first}

    def _epoch(self, size: int) -> int:
        """Steps in which so many examples are drawn."""
        return -(-size // self.batch_size)
