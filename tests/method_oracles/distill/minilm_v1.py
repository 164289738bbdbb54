"""Heads are cut as the case says; attention scores are those of its queries and keys."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, make_now

from fairkd_jax.distill.minilm_v1 import MiniLMv1
from fairkd_jax.types import Outputs


def adapt(case: Case):
    x, weights = case.x, case.hyper["relations"]
    mask = x["mask"].astype(case.dtype)

    def net(query, key, value):
        query, key, value = (
            v.reshape(*v.shape[:2], case.hyper["relation_heads"], -1) for v in (query, key, value)
        )
        scores = jnp.einsum("btnh,bsnh->bnts", query, key) / query.shape[3] ** 0.5
        taps = {"block00/attn_scores": scores, "block00/attn_value": value}
        return Outputs(None, taps=taps, mask=mask)

    def loss(student, attention, value):
        method = MiniLMv1(attention_weight=attention, value_weight=value)
        teacher = net(*(x[f"{k}_t"] for k in "qkv"))
        return jnp.mean(method(net(*student), (teacher,), {}, {}, make_now()).per_example)

    student = tuple(x[f"{k}_s"] for k in "qkv")
    value, slopes = jax.value_and_grad(loss)(student, weights["QK"], weights["VV"])
    found = {"loss": value, "loss_rel_qk": loss(student, 1, 0), "loss_rel_vv": loss(student, 0, 1)}
    return found | {f"grad_{k}_s": g for k, g in zip("qkv", slopes)}
