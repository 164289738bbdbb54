"""No distillation: teachers and baselines train by their task alone."""

from flax import struct

from fairkd_jax.distill.base import Distiller


@struct.dataclass
class NoDistillation(Distiller):
    """Adds nothing."""
