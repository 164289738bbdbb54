"""Resampling: each class or group is drawn equally often, with replacement (RWY and RWG of
BalancingGroups, arXiv 2110.14503): draws with probability `1 / (K n_k)`, and the plain mean loss.
"""

from flax import struct

from fairkd_jax.config import Stage
from fairkd_jax.debias.base import Debiaser, require_unit
from fairkd_jax.types import Spec

SAMPLERS = {"group": "group_balanced", "label": "class_balanced"}


def drawn_by(base: Stage, samplers: dict[str, str], by: str, method: str) -> Stage:
    """The stage with the sampler of a unit; see `data/samplers.py`.

    Raises UnknownName for an unknown unit, ValueError where the config asks for another sampler.
    """
    require_unit(by, method)
    asked = base.config.data.sampler
    if asked not in ("natural", samplers[by]):
        raise ValueError(
            f"data.sampler = {asked!r}, and debias {method!r} with by = {by!r} draws by "
            f"{samplers[by]!r}: leave data.sampler at 'natural'"
        )
    return base.change({"data.sampler": samplers[by]})


@struct.dataclass
class Resample(Debiaser):
    """Only stages; `by="label"` reads no attributes. A sampler refuses what has no example."""

    by: str = struct.field(pytree_node=False, default="group")  # group | label

    @property
    def sees_attributes(self) -> bool:
        """Whether draws go by group."""
        return self.by == "group"

    def check(self, spec: Spec) -> None:
        """Raises UnknownName for `by`."""
        require_unit(self.by, "resample")

    def stages(self, base: Stage) -> Stage:
        """The base, its batches drawn class by class or group by group."""
        return drawn_by(base, SAMPLERS, self.by, "resample")
