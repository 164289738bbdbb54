"""Debiased focal loss with one bias model, and with two, whose probabilities meet in two ways."""

import jax
from method_oracles.cases import Case, reduce, sources, with_bias

from fairkd_jax.debias.dfl import DFL


def adapt(case: Case):
    x, gamma = case.x, case.hyper["gamma"]
    bias = [jax.nn.log_softmax(x[k]) for k in sorted(x) if k.startswith("bias_logits")]

    def loss(z, count=1, join="mean"):
        method = DFL(bias=sources(count), gamma=gamma, join=join)
        return reduce(method, z, with_bias(case, *bias[:count]), {}, {})[0]

    value, grad = jax.value_and_grad(loss)(x["z"])
    joint = {"mean": "loss_joint_mean", "product": "loss_joint_multiply"}
    return {"loss": value, "grad_z": grad} | {
        name: loss(x["z"], len(bias), join) for join, name in joint.items()
    }
