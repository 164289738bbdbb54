"""Steps of the group weights, one after another."""

import jax
from method_oracles.cases import Case, make_spec, reduce, start

from fairkd_jax import losses
from fairkd_jax.debias.group_dro import GroupDRO


def adapt(case: Case):
    x, hyper, found = case.x, case.hyper, {}
    method = GroupDRO(step_size=hyper["eta"], adjustment=hyper["generalization_adjustment"])
    groups = x["group_counts"].astype(case.dtype)
    spec = make_spec(groups=groups)
    params, memory = start(method, spec, case.dtype)
    for k in range(1, hyper["steps"] + 1):
        label, group = x[f"y_{k}"], x[f"g_{k}"]
        batch = {"label": label, "group": group, "real": case.ones(label)}
        ce = losses.cross_entropy(x[f"z_{k}"], label)
        found[f"group_loss_{k}"] = losses.group_means(ce, group, batch["real"], hyper["n_groups"])[
            0
        ]
        (loss, (memory, _)), grad = jax.value_and_grad(
            lambda z, batch=batch, memory=memory: reduce(
                method, z, batch, params, memory, groups=groups
            ),
            has_aux=True,
        )(x[f"z_{k}"])
        for kind in ("code", "paper"):
            found |= {f"loss_{kind}_{k}": loss, f"grad_z_{kind}_{k}": grad}
            found[f"q_{kind}_{k}"] = memory["q"]
    return found
