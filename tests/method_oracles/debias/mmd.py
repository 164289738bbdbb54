"""The same of another penalty."""

from method_oracles.cases import Case
from method_oracles.debias import coral

from fairkd_jax.debias.mmd import GAMMAS, MMD


def adapt(case: Case):
    assert tuple(case.hyper["gammas"]) == GAMMAS
    return coral.adapt(case, MMD())
