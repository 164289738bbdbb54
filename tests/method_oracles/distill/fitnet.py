"""Vectors whole; of convolutional cases the loss alone, for our regressor has no BatchNorm."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, make_now, make_spec, tap

from fairkd_jax.distill.hidden import Hidden

READS = ("regressed", "grad_fs")  # outputs: of cases that we cover in part


def adapt(case: Case):
    x, method = case.x, Hidden(pairs=(("a", "b"),))
    spec = make_spec(student=tap("a", x["fs"]), teachers=(tap("b", x["ft"]),))
    (name,) = method.init(spec, jax.random.key(0))[0]  # the key of the only projection

    def loss(fs, kernel, bias):
        params = {name: {"kernel": kernel, "bias": bias}}
        kd = method(tap("a", fs), (tap("b", x["ft"]),), {}, params, make_now())
        return jnp.mean(kd.per_example)

    if "W" not in x:
        x["ft"] = jnp.moveaxis(x["ft"], 1, -1)
        size = x["ft"].shape[-1]
        ours = jnp.moveaxis(x["regressed"], 1, -1)
        return {"loss": loss(ours, jnp.eye(size, dtype=case.dtype), jnp.zeros(size, case.dtype))}
    value, (fs, kernel) = jax.value_and_grad(loss, (0, 1))(x["fs"], x["W"].T, x["b"])
    return {"loss": value, "grad_fs": fs, "grad_W": kernel.T}
