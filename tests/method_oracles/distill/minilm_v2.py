"""Projections as of one head: relation heads cut them anew."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, make_now

from fairkd_jax.distill.minilm_v2 import MiniLMv2
from fairkd_jax.types import Outputs


def adapt(case: Case):
    x, hyper = case.x, case.hyper
    weights = {f"{n}_weight": hyper["relations"][k] for n, k in NAMES.items()}
    method = MiniLMv2(relation_heads=hyper["relation_heads"], **weights)

    def net(side):
        taps = {f"block00/attn_{n}": v[:, :, None] for n, v in zip(NAMES, side)}
        return Outputs(None, taps=taps, mask=x["mask"].astype(case.dtype))

    teacher = net([x[f"{k}_t"] for k in "qkv"])

    def loss(student):
        kd = method(net(student), (teacher,), {}, {}, make_now())
        return jnp.mean(kd.per_example)

    student = tuple(x[f"{k}_s"] for k in "qkv")
    value, slopes = jax.value_and_grad(loss)(student)
    terms = map(jnp.mean, method.terms(net(student), teacher))
    found = {f"loss_rel_{k}": term for k, term in zip(("qq", "kk", "vv"), terms)}
    return found | {"loss": value} | {f"grad_{k}_s": g for k, g in zip("qkv", slopes)}


NAMES = {"query": "QQ", "key": "KK", "value": "VV"}
