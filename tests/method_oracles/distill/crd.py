"""Steps with given negatives, memory carried from one to the next."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case
from method_oracles.features import PAIR, met

from fairkd_jax.distill.crd import CRD, UNSET


def adapt(case: Case):
    x, hyper, found = case.x, case.hyper, {}
    options = {"temperature": hyper["tau"], "momentum": hyper["momentum"]}
    method = CRD(pairs=PAIR, width=hyper["feat_dim"], negatives=hyper["K"], **options)
    own = {
        "student": {"kernel": x["Ws"].T, "bias": x["bs"]},
        "teacher": {"kernel": x["Wt"].T, "bias": x["bt"]},
    }
    memory = {"student": x["memory_v1"], "teacher": x["memory_v2"]}
    memory["log_z"] = jnp.full(2, UNSET, case.dtype)
    for k in sorted(int(name.split("_")[1]) for name in x if name.startswith("idx_")):

        def loss(fs, k=k, memory=memory):
            pair, drawn = met(fs, x[f"ft_{k}"]), x[f"contrast_idx_{k}"][:, 1:]
            losses, after = method.contrast(pair, x[f"idx_{k}"], drawn, own, memory)
            return jnp.mean(losses), after

        (value, memory), grad = jax.value_and_grad(loss, has_aux=True)(x[f"fs_{k}"])
        found |= {f"loss_{k}": value, f"grad_fs_{k}": grad}
        for bank, name in (("student", "v1"), ("teacher", "v2")):
            found[f"memory_{name}_after_{k}"] = memory[bank]
    z = jnp.exp(memory["log_z"])
    return found | {"Z_v1": z[0], "Z_v2": z[1]}
