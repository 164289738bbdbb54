"""Deep feature reweighting (arXiv 2204.02937): ERM, then the last layer on group-balanced data.

By the authors' solver, liblinear, L1, on standardised features, its solution averaged over balanced
subsets (`infer/balanced_logistic.py`). Or by gradient descent from where ERM left the head, on
features as they are, with batches that are group-balanced and the optimizer's weight decay (L2).
Scores on the held-out split are of data trained on, whichever way: report others.
"""

from flax import struct

from fairkd_jax.config import Stage
from fairkd_jax.debias.base import Debiaser, require_groups
from fairkd_jax.debias.last_layer import features_of, refitted, retrained
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Array, Spec

SOLVERS = ("liblinear", "gradient")


@struct.dataclass
class DFR(Debiaser):
    """Only stages; the loss of all is the mean. A teacher teaches in the first stage alone."""

    sees_attributes = True  # in the last stage, to balance and to check the groups

    split: str = struct.field(pytree_node=False, default="val")  # what the last layer learns from
    solver: str = struct.field(pytree_node=False, default="liblinear")  # liblinear | gradient
    # of liblinear: the C to choose from (one alone is taken), and over how many subsets is averaged
    strengths: tuple[float, ...] = struct.field(
        pytree_node=False, default=(1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
    )
    resamples: Array = 20
    # of gradient descent
    head_share: Array = 1.0  # of the steps: how long the head trains
    head_learning_rate: Array = 1e-2
    head_weight_decay: Array = 0.0

    def check(self, spec: Spec) -> None:
        """Raises ValueError for a group without held-out examples."""
        require_groups(spec, "dfr")

    def stages(self, base: Stage) -> Stage:
        """The base by ERM, distillation included; then its head.

        Raises UnknownName for `solver`.
        """
        if self.solver not in SOLVERS:
            raise UnknownName(self.solver, "value of debias.dfr.solver:", SOLVERS)
        net = base.change({"debias": {"name": "erm"}})
        if self.solver == "liblinear":
            infer = {
                "name": "balanced_logistic",
                "strengths": self.strengths,
                "resamples": int(self.resamples),
            }
            train, held_out = (features_of(net, s) for s in (base.config.data.split, self.split))
            return refitted(base, net, self.split, infer, train=train, features=held_out)
        changes = {
            "data.split": self.split,
            "data.sampler": "group_balanced",
            "optim.learning_rate": float(self.head_learning_rate),
            "optim.weight_decay": float(self.head_weight_decay),
        }
        return retrained(base, net, float(self.head_share), changes)
