"""Learned-mixin, with and without the entropy."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, reduce, with_bias

from fairkd_jax.debias.learned_mixin import LearnedMixin


def adapt(case: Case):
    x, batch = case.x, with_bias(case, case.x["bias_logp"])

    def loss(z, hidden, w, b, penalty=case.hyper["penalty"]):
        params = {"w": w[0], "v": b[0]}
        return reduce(LearnedMixin(penalty=penalty), z, batch, params, {}, features=hidden)[0]

    inputs = x["z"], x["hidden"], x["w"], x["b"]
    value, grads = jax.value_and_grad(loss, (0, 1, 2, 3))(*inputs)
    entropy = jax.grad(loss, 4)(*inputs, jnp.zeros((), case.dtype))
    factor = LearnedMixin().factor(x["hidden"], {"w": x["w"][0], "v": x["b"][0]})
    names = ("grad_z", "grad_hidden", "grad_w", "grad_b")
    return {"loss": value, "entropy": entropy, "factor": factor} | dict(zip(names, grads))
