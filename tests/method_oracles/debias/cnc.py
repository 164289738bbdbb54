"""One anchor, its positives and its negatives in one batch, where no other row is an anchor."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case

from fairkd_jax.debias.cnc import contrastive


def adapt(case: Case):
    x = case.x
    temperature = jnp.asarray(case.hyper["tau"], case.dtype)

    def loss(rows, count):
        """Of the first row, with the `count` after it as positives and the rest as negatives."""
        number = jnp.arange(len(rows))
        label = jnp.where(number > count, 1, 0)
        answer = jnp.where((number > 0) & (number <= count), 1, 0)
        lost, anchor = contrastive(rows, label, answer, case.ones(number), temperature)
        return jnp.sum(lost * anchor) / jnp.sum(anchor)

    anchor, positives, negatives = x["anchor"][None], x["positives"], x["negatives"]
    value, grad = jax.value_and_grad(loss)(
        jnp.concatenate([anchor, positives, negatives]), len(positives)
    )
    alone = [loss(jnp.concatenate([anchor, p[None], negatives]), 1) for p in positives]
    return {"loss": value, "grad_all": grad, "loss_single_pos": jnp.mean(jnp.stack(alone))}
