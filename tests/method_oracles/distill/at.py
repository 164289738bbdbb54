"""Any number of layers: fs0, fs1, ..."""

import jax
from method_oracles.cases import Case
from method_oracles.features import loss_of

from fairkd_jax.distill.at import AT


def adapt(case: Case):
    x, layers = case.x, sum(name.startswith("fs") for name in case.x)
    method = AT(pairs=tuple((f"s{i}", f"t{i}") for i in range(layers)), power=case.hyper["p"])
    theirs = [x[f"ft{i}"] for i in range(layers)]
    value, grads = jax.value_and_grad(
        lambda fs: case.hyper["weight"] * loss_of(method, fs, theirs)
    )([x[f"fs{i}"] for i in range(layers)])
    return {"loss_code": value} | {f"grad_fs{i}": g for i, g in enumerate(grads)}
