"""The same with the square root of group sizes."""

from method_oracles.cases import Case
from method_oracles.debias import reweight

from fairkd_jax.debias.reweight import Reweight


def adapt(case: Case):
    return reweight.adapt(case, Reweight(power=0.5))
