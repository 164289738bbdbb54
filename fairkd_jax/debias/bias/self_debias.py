"""Self-debiasing: the same net on a few random examples knows only shortcuts (arXiv 2009.12303).

2,000 examples and 5 epochs are those of the authors' code (UKPLab/emnlp2020-debiasing-unknown).
"""

import dataclasses
import math

from fairkd_jax.config import Stage
from fairkd_jax.debias.bias.base import Bias, answers, check_above_0


@dataclasses.dataclass(frozen=True)
class SelfDebias(Bias):
    """The base's net on examples drawn by the run's seed, for no more steps than the base takes."""

    examples: int = 2000
    epochs: float = 5.0  # over these

    def __post_init__(self):
        check_above_0("self_debias", examples=self.examples, epochs=self.epochs)

    def stage(self, base: Stage) -> Stage:
        """The answers, on the whole split, of the net that saw a few examples of it."""
        data, train = base.config.data, base.config.train
        examples = min(self.examples, data.examples or self.examples)
        steps = min(math.ceil(self.epochs * examples / train.batch_size), train.steps)
        return answers(base, steps, {"data.examples": examples, "data.sampler": "natural"})
