"""One step: the map, the weights learnt, what is saved."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, make_now

from fairkd_jax.debias.kernel_whitening import RUNNING, KernelWhitening, decorrelation, nystroem_map
from fairkd_jax.losses import cross_entropy
from fairkd_jax.types import Outputs, Terms


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
    memory = {"features": x["pre_features"], "weights": x["pre_weight"][:, 0]}
    batch = {"label": x["y"], "real": case.ones(x["y"])}
    step = hyper["iter"] if hyper["global_epoch"] == 0 else RUNNING + hyper["iter"]
    now = make_now(memory).replace(step=jnp.int32(step))
    outputs = {"student": Outputs(x["z"], x["features"])}

    def reduce(total):
        terms = Terms(task=total, distill=0 * total, total=total)
        loss, after, metrics = method(terms, outputs, batch, {}, now, jax.random.key(0))
        return loss, (after, metrics)

    losses = cross_entropy(x["z"], x["y"])
    (loss, (after, metrics)), slope = jax.value_and_grad(reduce, has_aux=True)(losses)
    joined = nystroem_map(jnp.concatenate([x["features"], x["pre_features"]]), method.shift)
    even = jnp.concatenate([case.ones(x["y"]), memory["weights"]])
    return {
        "nystrom_map": joined,
        "decorrelation_initial": decorrelation(joined, jnp.exp(even) / jnp.exp(even).sum()),
        "decorrelation_final": metrics["decorrelation"],
        "weight": slope * len(losses),
        "pre_features_after": after["features"],
        "pre_weight_after": after["weights"][:, None],
        "loss_code": loss * len(losses),  # a sum there
    }
