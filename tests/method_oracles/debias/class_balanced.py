"""Weights by the effective number of examples, and the loss they give."""

from method_oracles.cases import Case
from method_oracles.debias import reweight

from fairkd_jax.debias.class_balanced import ClassBalanced


def adapt(case: Case):
    found = reweight.adapt(case, ClassBalanced(beta=case.hyper["beta"], by="group"))
    return found | {f"{k}_paper": found[k] for k in ("weights", "loss")}
