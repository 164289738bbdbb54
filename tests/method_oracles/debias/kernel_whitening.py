"""One step: the map, the weights learnt, what is saved."""

import jax.numpy as jnp
from method_oracles.cases import Case, make_spec, reduce, start, weights_of

from fairkd_jax.debias.kernel_whitening import RUNNING, KernelWhitening, decorrelation, nystroem_map
from fairkd_jax.types import Outputs


def adapt(case: Case):
    x, hyper = case.x, case.hyper
    method = KernelWhitening(
        balance=hyper["lambdap"],
        learning_rate=hyper["lr"],
        inner_steps=hyper["inner_steps"],
        power=hyper["decay_pow"],
        decay=hyper["presave_ratio"],
        shift=hyper["eig_shift"],
        saved=len(x["pre_features"]),
    )
    start(method, make_spec(student=Outputs(None, x["features"])), case.dtype)
    memory = {"features": x["pre_features"], "weights": x["pre_weight"][:, 0]}
    batch = {"label": x["y"], "real": case.ones(x["y"])}
    step = hyper["iter"] if hyper["global_epoch"] == 0 else RUNNING + hyper["iter"]
    options = {"features": x["features"], "step": step}
    loss, (after, metrics) = reduce(method, x["z"], batch, {}, memory, **options)
    joined = nystroem_map(jnp.concatenate([x["features"], x["pre_features"]]), method.shift)
    even = jnp.concatenate([case.ones(x["y"]), memory["weights"]])
    return {
        "nystrom_map": joined,
        "decorrelation_initial": decorrelation(joined, jnp.exp(even) / jnp.exp(even).sum()),
        "decorrelation_final": metrics["decorrelation"],
        "weight": weights_of(method, x["z"], batch, {}, memory, **options),
        "pre_features_after": after["features"],
        "pre_weight_after": after["weights"][:, None],
        "loss_code": loss * len(x["y"]),  # a sum there
    }
