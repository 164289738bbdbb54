"""Attributes are the oracle's groups; ours are pairs of class and attribute."""

from method_oracles.cases import Case
from method_oracles.features import PAIR, kd_of, value_and_grad

from fairkd_jax.distill.mfd import MFD


def adapt(case: Case):
    x, hyper = case.x, case.hyper
    classes, attributes = hyper["num_classes"], hyper["num_groups"]
    method = MFD(pairs=PAIR, kernel=hyper["kernel"], bandwidth=hyper["sigma"])
    batch = {"label": x["y"], "group": x["y"] * attributes + x["group"]}
    told = {"groups": classes * attributes, "classes": classes}
    loss, grad = value_and_grad(method, x, (), batch, **told)
    kd = kd_of(method, [x["fs"]], [x["ft"]], (), batch, **told)
    return {
        "loss_code": hyper["lambda_f"] * loss,
        "grad_fs": hyper["lambda_f"] * grad,
        "mmd2_sum": 2 * kd.penalty,
        "bandwidth": kd.metrics["mean_square_distance"],
    }
