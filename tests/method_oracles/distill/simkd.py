"""The projector is given; the teacher's head reads the means of what it gives."""

import jax.numpy as jnp
from method_oracles.cases import Case
from method_oracles.features import NAME, PAIR, kd_of, kernel, met, value_and_grad

from fairkd_jax.distill import projections
from fairkd_jax.distill.simkd import SimKD


def adapt(case: Case):
    x = case.x
    method = SimKD(pairs=PAIR, projector="convolutions", factor=case.hyper["factor"])
    places = sorted({int(n.split("_")[1]) for n in x if n.startswith("transfer_")})
    own = {
        f"layer{i}": {
            "kernel": kernel(x[f"transfer_{convolution}_weight"]),
            "scale": x[f"transfer_{norm}_weight"],
            "bias": x[f"transfer_{norm}_bias"],
        }
        for i, (convolution, norm) in enumerate(zip(places[::2], places[1::2]))
    }
    loss, grad = value_and_grad(method, x, {NAME: own})
    projected, pair = projections.projected(own, met(x["fs"], x["ft"]))
    return {
        "loss": loss,
        "grad_fs": grad,
        "per_example": kd_of(method, [x["fs"]], [x["ft"]], {NAME: own}).per_example,
        "feat_s": jnp.moveaxis(projected, -1, 1),
        "feat_t": jnp.moveaxis(pair.theirs, -1, 1),
        "logits": jnp.mean(projected, axis=(1, 2)) @ x["fc_W"].T + x["fc_b"],
    }
