"""Logit adjustment by label, which at tau 1 is the balanced softmax."""

import jax
from method_oracles.cases import Case, reduce

from fairkd_jax.debias.logit_adjustment import LogitAdjustment, log_prior


def adapt(case: Case):
    z, label, tau = case.x["z"], case.x["y"], case.hyper["tau"]
    batch, counts = {"label": label, "real": case.ones(label)}, case.x["class_counts"]
    counts = counts.astype(case.dtype)

    def loss(z, tau):
        return reduce(LogitAdjustment(tau=tau), z, batch, {}, {}, labels=counts)[0]

    value, grad = jax.value_and_grad(loss)(z, 1.0)
    after = z - tau * log_prior(counts)
    return {"loss": value, "grad_z": grad, "loss_tau": loss(z, tau), "posthoc_logits": after}
