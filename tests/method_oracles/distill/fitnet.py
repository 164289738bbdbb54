"""Vectors by the dense regressor, maps by the normalised one, whose convolution needs no bias."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case
from method_oracles.features import NAME, PAIR, kernel, loss_of, met, value_and_grad

from fairkd_jax.distill.hidden import Hidden


def adapt(case: Case):
    x = case.x
    if "W" in x:
        method = Hidden(pairs=PAIR)

        def loss(fs, weight):
            params = {NAME: {"kernel": weight.T, "bias": x["b"]}}
            return loss_of(method, [fs], [x["ft"]], params)

        value, (fs, weight) = jax.value_and_grad(loss, (0, 1))(x["fs"], x["W"])
        return {"loss": value, "grad_fs": fs, "grad_W": weight}

    method = Hidden(pairs=PAIR, regressor="normalised")
    own = {"kernel": kernel(x["conv_weight"]), "scale": x["bn_weight"], "bias": x["bn_bias"]}
    value, grad = value_and_grad(method, x, {NAME: own})
    regressed, _ = method.regress(own, met(x["fs"], x["ft"]))
    return {"loss": value, "grad_fs": grad, "regressed": jnp.moveaxis(regressed, -1, 1)}
