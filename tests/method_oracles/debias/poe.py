"""Products with one bias model and with two."""

import jax
from method_oracles.cases import Case, reduce, sources, with_bias

from fairkd_jax.debias.poe import PoE


def adapt(case: Case):
    x = case.x
    logs = {k: jax.nn.log_softmax(x[k]) for k in ("bias_logits", "bias_logits_2")}
    found = {}
    for suffix, exponent, bias in (
        ("", 1.0, [x["bias_logp"]]),
        ("_alpha", case.hyper["poe_alpha"], [logs["bias_logits"]]),
        ("_two_bias", 1.0, [*logs.values()]),
    ):
        method, batch = PoE(sources(len(bias)), exponent), with_bias(case, *bias)
        (loss, _), grad = jax.value_and_grad(
            lambda z, method=method, batch=batch: reduce(method, z, batch, {}, {}), has_aux=True
        )(x["z"])
        found |= {f"loss{suffix}": loss, f"grad_z{suffix}": grad}
    return found
