"""SELF (arXiv 2309.08534): the last layer learns where an early and the final net disagree.

ERM, then the head alone on the few held-out examples on which the net answers most unlike itself
early in training (`infer/disagreement.py`), each class drawn as often as another. No attributes.
Details are recalled and were not checked: how disagreement is measured, and on how many examples.
"""

from flax import struct

from fairkd_jax.config import InferStage, Stage, TableStage
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.debias.last_layer import retrained
from fairkd_jax.types import Array


@struct.dataclass
class SELF(Debiaser):
    """Only stages; the loss of all is the mean. A teacher teaches the final net alone.

    The early net is one of fewer steps, whose learning rate has gone down by then; the paper stops
    the same training early. Scores on the held-out split are of data trained on.
    """

    tables = ("draw",)
    search = {"examples": (50, 100), "early_share": (0.1, 0.3), "head_learning_rate": (0.01, 0.1)}

    split: str = struct.field(pytree_node=False, default="val")  # what the last layer learns from
    examples: Array = 100  # of the split: on how many the last layer learns
    early_share: Array = 0.1  # of the steps: how long the early net trains
    head_share: Array = 0.1  # and for how many of them the head
    head_learning_rate: Array = 1e-2
    head_weight_decay: Array = 0.0

    def stages(self, base: Stage) -> Stage:
        """Two nets by ERM, their answers on the held-out split, and the head of the second."""
        net = base.change({"debias": {"name": "erm"}})
        early = base.first_net(self.early_share)
        changes = {
            "data.split": self.split,
            "data.sampler": "natural",
            "optim.learning_rate": float(self.head_learning_rate),
            "optim.weight_decay": float(self.head_weight_decay),
        }
        head = retrained(base, net, float(self.head_share), changes)
        infer = {"name": "disagreement", "examples": int(self.examples)}
        answers = {
            name: Stage("table", TableStage(("log_probs",), self.split), {"net": one})
            for name, one in (("early", early), ("final", net))
        }
        config = InferStage(head.config.data, infer, head.config.seed)
        return head.hang(draw=Stage("infer", config, answers))
