"""Classifier retraining (cRT, arXiv 1910.09217): ERM, then the head alone on balanced draws.

The second stage goes on from the first on the same split, with batches balanced by class, or by
group; as in SubpopBench (arXiv 2302.12254), where it is called CRT.
"""

from flax import struct

from fairkd_jax.config import Stage
from fairkd_jax.debias.base import Debiaser, require_groups, require_unit
from fairkd_jax.debias.last_layer import retrained
from fairkd_jax.debias.resample import SAMPLERS
from fairkd_jax.types import Array, Spec


@struct.dataclass
class CRT(Debiaser):
    """Only stages; the loss of both is the mean. A teacher teaches in the first one alone.

    That the paper draws a new head at random is recalled; here it goes on from where ERM left it.
    """

    search = {"head_share": (0.3, 1.0)}

    by: str = struct.field(pytree_node=False, default="label")  # label | group
    head_share: Array = 1.0  # of the steps: how long the head trains

    @property
    def sees_attributes(self) -> bool:
        """Whether batches are balanced by group."""
        return self.by == "group"

    def check(self, spec: Spec) -> None:
        """Raises UnknownName for `by`, ValueError for a group without examples to balance."""
        require_unit(self.by, "crt")
        if self.by == "group":
            require_groups(spec, "crt")

    def stages(self, base: Stage) -> Stage:
        """The base by ERM, distillation included; then its head. Raises UnknownName for `by`."""
        require_unit(self.by, "crt")
        net = base.change({"debias": {"name": "erm"}})
        return retrained(base, net, float(self.head_share), {"data.sampler": SAMPLERS[self.by]})
