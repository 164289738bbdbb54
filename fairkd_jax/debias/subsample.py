"""Subsampling: of each class or group as many examples as the smallest has, chosen once by the seed
(SUBY and SUBG of BalancingGroups, arXiv 2110.14503), and the plain mean loss over these.
"""

from flax import struct

from fairkd_jax.config import Stage
from fairkd_jax.debias.base import Debiaser, require_unit
from fairkd_jax.debias.resample import drawn_by
from fairkd_jax.types import Spec

SAMPLERS = {"group": "subsampled_groups", "label": "subsampled_classes"}


@struct.dataclass
class Subsample(Debiaser):
    """Only stages; `by="label"` reads no attributes. A sampler refuses what has no example."""

    by: str = struct.field(pytree_node=False, default="group")  # group | label

    @property
    def sees_attributes(self) -> bool:
        """Whether the choice goes by group."""
        return self.by == "group"

    def check(self, spec: Spec) -> None:
        """Raises UnknownName for `by`."""
        require_unit(self.by, "subsample")

    def stages(self, base: Stage) -> Stage:
        """The base, trained on the subsample alone."""
        return drawn_by(base, SAMPLERS, self.by, "subsample")
