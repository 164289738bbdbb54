"""Which examples two nets disagree on most (SELF, arXiv 2309.08534), each class drawn as often.

Disagreement is `KL(softmax(final) || softmax(early))`; the `examples` with the largest are drawn
from, and no others. That the paper takes this divergence, in this direction, is recalled and was
not checked.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from fairkd_jax.data.samplers import NEVER
from fairkd_jax.debias.inference import Inference


@dataclasses.dataclass(frozen=True)
class Disagreement(Inference):
    """Columns "first", 0 for an example that is chosen, and "weight", which balances classes."""

    tables: ClassVar = {"early": ("log_probs",), "final": ("log_probs",)}

    examples: int = 100

    def __post_init__(self):
        if self.examples < 1:
            raise ValueError(f"disagreement: examples = {self.examples}, expected 1 at least")

    def columns(self, examples, tables, seed):
        """The examples of largest divergence; of equal ones the first."""
        early, final = (np.float64(tables[k]["log_probs"]) for k in ("early", "final"))
        apart = np.sum(np.exp(final) * (final - early), axis=1)
        chosen = np.argsort(-apart, kind="stable")[: self.examples]
        first = np.full(len(apart), NEVER)
        first[chosen] = 0
        label = examples.columns["label"]
        share = 1.0 / np.maximum(np.bincount(label[chosen], minlength=label.max() + 1), 1)
        return {"first": first, "weight": share[label]}
