"""Environment inference for invariant learning (EIIL, arXiv 2010.07249): groups without labels.

A reference net's answers are split into two environments (`infer/environments.py`), and a method
that needs attributes trains on label x environment: Group DRO as in SpuCo, or the paper's IRM.
"""

from typing import Any

from flax import struct

from fairkd_jax import registry
from fairkd_jax.config import InferStage, Stage
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.types import Array


@struct.dataclass
class EIIL(Debiaser):
    """Only stages: the last one trains by `trainer`, which is shown environments as attributes."""

    tables = ("attribute",)
    search = {"reference_share": (0.05, 0.1, 0.2)}

    trainer: tuple[tuple[str, Any], ...] = struct.field(
        pytree_node=False, default=(("name", "group_dro"),)
    )  # a debiasing method, with its options
    reference_share: Array = 0.1  # of the steps: how long the reference net trains (one epoch)
    split_steps: Array = 20_000  # of Adam, up the penalties of both environments
    split_learning_rate: Array = 0.01

    def stages(self, base: Stage) -> Stage:
        """The reference net by ERM, its answers, environments, and the base by the trainer.

        Raises ValueError for a trainer that would not look at them.
        """
        config, trainer = base.config, dict(self.trainer)
        method = registry.build("debias", trainer)
        infer = {
            "name": "environments",
            "steps": int(self.split_steps),
            "learning_rate": float(self.split_learning_rate),
        }
        inputs = {"reference": base.first_net(self.reference_share).asked("logits")}
        inferred = Stage("infer", InferStage(config.data, infer, config.seed), inputs)
        robust = base.change({"debias": trainer, "attributes": 2}).hang(attribute=inferred)
        stage = method.stages(robust)
        if not method.sees_attributes or "attribute" not in stage.inputs:
            raise ValueError(
                f"eiil: trainer = {trainer} does not train on attributes of the training split, so "
                "environments would have no effect: use one that does, as group_dro, irm, reweight"
            )
        return stage
