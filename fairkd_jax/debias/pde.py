"""Progressive data expansion (PDE, arXiv 2306.04949): balanced groups first, then ever more data.

Training begins on a group-balanced subset and is given `added` random examples every `every_epochs`
epochs (`infer/expanding.py`). As a trainer of `eiil` it balances inferred groups.
"""

from flax import struct

from fairkd_jax.config import InferStage, Stage
from fairkd_jax.debias.base import Debiaser, require_groups
from fairkd_jax.types import Array, Spec


@struct.dataclass
class PDE(Debiaser):
    """Only stages; the loss is the mean over what is drawn, with replacement, at each step.

    The numbers are those of SpuCo's code. That the authors also reset the momentum when the data
    first expand is recalled and was not checked; here the optimizer runs on.
    """

    sees_attributes = True
    tables = ("draw",)
    search = {"warmup_epochs": (5, 10, 15), "added": (10, 30)}

    warmup_epochs: Array = 15  # of the balanced subset
    added: Array = 10  # examples at a time
    every_epochs: Array = 10  # of those drawn from by then

    def check(self, spec: Spec) -> None:
        """Raises ValueError for a group without training examples: there is no balanced subset."""
        require_groups(spec, "pde")

    def stages(self, base: Stage) -> Stage:
        """The base, drawing from what a table says is there by then."""
        config = base.config
        infer = {
            "name": "expanding",
            "batch_size": config.train.batch_size,
            "warmup_epochs": int(self.warmup_epochs),
            "added": int(self.added),
            "every_epochs": int(self.every_epochs),
        }
        groups = {k: v for k, v in base.inputs.items() if k == "attribute"}
        return base.hang(draw=Stage("infer", InferStage(config.data, infer, config.seed), groups))
