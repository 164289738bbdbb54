"""The regressor and the variances are given; where ours start is compared too."""

import jax
from method_oracles.cases import Case
from method_oracles.features import NAME, PAIR, kernel, loss_of, start

from fairkd_jax.distill.vid import VID


def adapt(case: Case):
    x, method = case.x, VID(pairs=PAIR, variance=case.hyper["init_pred_var"])
    layers = {f"layer{i}": {"kernel": kernel(x[f"w{i}"])} for i in range(3)}

    def loss(fs, log_scale):
        return loss_of(method, [fs], [x["ft"]], {NAME: layers | {"log_scale": log_scale}})

    value, (fs, log_scale) = jax.value_and_grad(loss, (0, 1))(x["fs"], x["log_scale"])
    begun = start(method, x["fs"], x["ft"])[NAME]["log_scale"][0]
    return {"loss": value, "grad_fs": fs, "grad_log_scale": log_scale, "init_log_scale": begun}
