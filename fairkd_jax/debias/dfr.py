"""Deep feature reweighting (arXiv 2204.02937): ERM, then the last layer on group-balanced data.

What differs from the paper and its code, which fit an L1-penalised logistic regression with
liblinear on standardised features and average it over balanced subsets:
- the head learns by gradient descent from where ERM left it, on features as they are;
- the penalty is the optimizer's weight decay (L2), not L1; its strength is not tuned on half of
  the held-out data;
- each batch is drawn group-balanced, so all held-out examples take part and nothing is averaged.
Scores on the held-out split are of data trained on, whichever way: report others.
"""

from flax import struct

from fairkd_jax.config import Mix, Stage
from fairkd_jax.debias.base import Debiaser, require_groups
from fairkd_jax.types import Array, Spec


@struct.dataclass
class DFR(Debiaser):
    """Only stages; the loss of both is the mean. A teacher teaches in the first stage alone."""

    sees_attributes = True  # in the second stage, to balance and to check the groups

    split: str = struct.field(pytree_node=False, default="val")  # what the last layer learns from
    head_share: Array = 1.0  # of the steps: how long the head trains
    head_learning_rate: Array = 1e-2
    head_weight_decay: Array = 0.0

    def check(self, spec: Spec) -> None:
        """Raises ValueError for a group without held-out examples."""
        require_groups(spec, "dfr")

    def stages(self, base: Stage) -> Stage:
        """The base by ERM, distillation included; from it, the head alone, without dropout."""
        features = base.change({"debias": {"name": "erm"}})
        head = base.change(
            {
                "distill": {"name": "none"},
                "mix": Mix(),
                "data.split": self.split,
                "data.sampler": "group_balanced",
                "data.augment": {},  # the last layer learns from held-out data alone
                "optim.learning_rate": float(self.head_learning_rate),
                "optim.weight_decay": float(self.head_weight_decay),
                "train.steps": max(1, round(self.head_share * base.config.train.steps)),
                "train.trainable": "nets/student/head/.*",
                "train.deterministic": True,
                "train.patience": 0,
                "train.select": "last",  # the split that a rule would look at is trained on
            }
        )
        return Stage(head.kind, head.config, {"init": features})
