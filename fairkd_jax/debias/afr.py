"""Automatic feature reweighting (AFR, arXiv 2306.11074): what ERM is unsure of weighs most.

ERM on a share of the training split, then its head on the rest (`infer/weighted_head.py`), with
weights `exp(-gamma p_y)` of that ERM net and a penalty on how far the head moves.
"""

from flax import struct

from fairkd_jax.config import InferStage, Stage
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.debias.last_layer import features_of, refitted
from fairkd_jax.types import Array


@struct.dataclass
class AFR(Debiaser):
    """Only stages. A teacher teaches in the first one alone."""

    search = {"gamma": (4.0, 10.0, 20.0), "penalty": (0.0, 0.1), "head_learning_rate": (0.01, 0.1)}

    held_share: Array = 0.2  # of the training split: what the head learns from
    gamma: Array = 10.0  # the authors' choice for Waterbirds; 1.44 for CelebA
    rebalance: bool = struct.field(pytree_node=False, default=True)  # of classes
    penalty: Array = 0.0
    head_learning_rate: Array = 0.01
    clip_norm: Array = 1.0
    head_steps: Array = 500  # of all held-out examples at once

    def stages(self, base: Stage) -> Stage:
        """The base by ERM without what is held out, distillation included; then its head."""
        config, split = base.config, base.config.data.split
        infer = {"name": "holdout", "share": float(self.held_share)}
        part = Stage("infer", InferStage(config.data, infer, config.seed))
        net = base.change({"debias": {"name": "erm"}}).hang(draw=part)
        infer = {
            "name": "weighted_head",
            "gamma": float(self.gamma),
            "rebalance": self.rebalance,
            "penalty": float(self.penalty),
            "learning_rate": float(self.head_learning_rate),
            "clip_norm": float(self.clip_norm),
            "steps": int(self.head_steps),
        }
        return refitted(base, net, split, infer, part=part, features=features_of(net, split))
