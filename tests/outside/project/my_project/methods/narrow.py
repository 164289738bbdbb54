"""A source of bias: a narrow net of one block, trained for a tenth of the steps."""

import dataclasses

from fairkd_jax.debias.bias.base import Bias, answers


@dataclasses.dataclass(frozen=True)
class Narrow(Bias):
    """What such a net answers."""

    width: int = 8

    def stage(self, base):
        """Its table."""
        net = {"name": "bert", "preset": "tiny", "depth": 1, "width": self.width, "heads": 1}
        return answers(base, 0.1, {"model": net, "optim.rates": {}})
