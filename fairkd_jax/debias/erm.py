"""Empirical risk minimisation: the mean loss. The method that every other one is compared with."""

from flax import struct

from fairkd_jax.debias.base import Debiaser


@struct.dataclass
class ERM(Debiaser):
    """The mean over real examples of whatever loss arrives."""
