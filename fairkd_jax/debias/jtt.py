"""Just train twice (arXiv 2107.09044): a second net weighs what a first, brief one got wrong.

`sum over mistakes of factor * l + sum over the rest of l` (paper, section 4), as a mean.
"""

import numpy as np
from flax import struct

from fairkd_jax.config import Stage
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import masked_mean
from fairkd_jax.types import Array


@struct.dataclass
class JTT(Debiaser):
    """The mean of losses, those of the identification net's mistakes times `factor`.

    `factor` is the weight of the paper and of BalancingGroups; the authors' script appends `factor`
    copies, which makes it one more. The mean is over examples, not over their weights.
    """

    tables = ("mistakes",)
    search = {"factor": (4.0, 20.0, 50.0, 100.0), "identify_share": (0.05, 0.1, 0.2, 0.4)}

    factor: Array = 50.0  # weight of a mistake (lambda)
    identify_share: Array = 0.2  # of the steps: how long the identification net trains

    def stages(self, base: Stage) -> Stage:
        """Identification by plain ERM without a teacher; its mistakes; the base, reading them."""
        return base.hang(mistakes=base.first_net(self.identify_share).asked("mistake"))

    def check_tables(self, tables):
        """Raises ValueError where the identification net made no mistake."""
        mistakes = np.asarray(tables["mistakes"]["mistake"])
        if not mistakes.any():
            raise ValueError(
                f"jtt: the identification net is right on all {mistakes.size} training examples: "
                "there is no error set to weigh. Train it for less (identify_share = "
                f"{float(self.identify_share):.3g}) or with more regularisation"
            )

    def __call__(self, terms, outputs, batch, params, now, key):
        """`mean((1 + (factor - 1) mistake) l)` over real examples."""
        mistake = batch["tables"]["mistakes"]["mistake"].astype(terms.total.dtype)
        loss = masked_mean((1.0 + (self.factor - 1.0) * mistake) * terms.total, batch["real"])
        return loss, now.memory, {"mistakes": masked_mean(mistake, batch["real"])}
