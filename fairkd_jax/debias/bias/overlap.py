"""Word overlap of premise and hypothesis: the bias that HANS was made for (arXiv 1909.03683).

A logistic regression on features made by hand, `debias/infer/overlap.py`; no net is trained.
"""

import dataclasses

from fairkd_jax.config import InferStage, Stage
from fairkd_jax.debias.bias.base import Bias


@dataclasses.dataclass(frozen=True)
class Overlap(Bias):
    """The regression's answers. It draws nothing, so runs of all seeds share them."""

    label: str = "entailment"  # the one that overlap suggests
    inverse_penalty: float = 100.0  # C of the regression

    def stage(self, base: Stage) -> Stage:
        """The stage that fits the regression to what the base trains on."""
        spec = {"name": "overlap", **dataclasses.asdict(self)}
        return Stage("infer", InferStage(base.config.data, spec, seed=0))
