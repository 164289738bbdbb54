"""Learned-mixin +H: the same, with a weight of the entropy."""

from method_oracles.debias.learned_mixin import adapt as adapt
