"""The early head's logits as an intermediate that its head reads as it is."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, make_now

from fairkd_jax import losses
from fairkd_jax.distill.dedier import DeDiER
from fairkd_jax.types import Outputs

READS = ("misread_index",)  # for its length


def adapt(case: Case):
    x, hyper = case.x, case.hyper
    early, share = x["aux_logits"], hyper["kd_alpha"]
    batch = {"real": case.ones(early), "label": x["y"]}
    method = DeDiER(
        temperature=hyper["T"], alpha=hyper["alpha"], beta=hyper["beta"], wait=0.0, tap="early"
    )
    size = early.shape[1]
    head = {"kernel": jnp.eye(size, dtype=case.dtype), "bias": jnp.zeros(size, case.dtype)}

    def run(zs):
        student = Outputs(zs, taps={"early": early})
        return method(student, (Outputs(x["zt"]),), batch, {"head": head}, make_now())

    def loss(zs):
        kd = run(zs)
        task = kd.task_weight * losses.cross_entropy(zs, x["y"])
        return jnp.mean(share * kd.per_example + (1 - share) * task)

    value, slope = jax.value_and_grad(loss)(x["zs"])
    weights = run(x["zs"]).task_weight
    (index,) = jnp.nonzero(method.misread(early, batch)[0], size=len(x["misread_index"]))
    return {
        "misread_index": index,
        "weights_misread": weights[index],
        "weights": weights,
        "loss": value,
        "grad_zs": slope,
    }
