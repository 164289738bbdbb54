"""Both terms, each by itself and together."""

from method_oracles.cases import Case
from method_oracles.features import PAIR, value_and_grad

from fairkd_jax.distill.rkd import RKD


def adapt(case: Case):
    hyper = case.hyper
    weights = {"distance": (1.0, 0.0), "angle": (0.0, 1.0)}
    weights[""] = hyper["distance_weight"], hyper["angle_weight"]
    found = {}
    for term, (distance, angle) in weights.items():
        method = RKD(pairs=PAIR, distance=distance, angle=angle)
        loss, grad = value_and_grad(method, case.x)
        found |= {term or "loss": loss, "_".join(filter(None, ["grad", term, "fs"])): grad}
    return found
