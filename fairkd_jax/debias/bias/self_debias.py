"""Self-debiasing: the same net on a few random examples knows only shortcuts (arXiv 2009.12303).

2,000 examples and 5 epochs are those of the authors' code (UKPLab/emnlp2020-debiasing-unknown).
"""

import dataclasses
import math

from fairkd_jax.config import InferStage, Stage
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
        train = base.config.train
        steps = min(math.ceil(self.epochs * self.examples / train.batch_size), train.steps)
        alone = {"data.sampler": "natural", "data.padding": "longest", "data.augment": {}}
        few = {"name": "few", "count": self.examples}
        draw = InferStage(base.change(alone).config.data, few, base.config.seed)
        return answers(base, 1.0, alone | {"train.steps": steps}, Stage("infer", draw))
