"""A weak learner: a small net, or a briefly trained one, learns the shortcuts first (2012.01300).

That paper trains BERT-tiny on the task itself: `{"model": {"name": "bert", "preset": "tiny"},
"share": 1.0}` (details recalled: its authors' code was not found).
"""

import dataclasses
from typing import Any

from fairkd_jax.config import Stage
from fairkd_jax.debias.bias.base import Bias, answers, check_above_0, with_model


@dataclasses.dataclass(frozen=True)
class WeakLearner(Bias):
    """Trained on all examples, for a share of the base's steps."""

    model: tuple[tuple[str, Any], ...] = ()  # a model's config; (): the base's
    share: float = 0.2  # of the base's steps

    def __post_init__(self):
        check_above_0("weak_learner", share=self.share)

    def stage(self, base: Stage) -> Stage:
        """The answers of the weak net."""
        return answers(base, self.share, with_model(self.model))
