"""A discriminator of one layer on given features."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, environments, reduce

from fairkd_jax.debias.dann import DANN


def adapt(case: Case):
    x, hyper = case.x, case.hyper
    features, batch, _ = environments(case, "x")
    method = DANN(
        strength=hyper["lambda"],
        gradient_penalty=hyper["grad_penalty"],
        conditional=hyper["conditional"],
        depth=1,
    )

    def loss(features, w_disc, w_cls):
        layer = {"kernel": w_disc.T, "bias": x["b_disc"]}
        params = {"discriminator": {"layer0": layer}, "label_embedding": x["class_emb"]}
        joined = jnp.concatenate(features)
        return reduce(method, joined @ w_cls.T + x["b_cls"], batch, params, {}, joined)

    (value, (_, metrics)), (grads, disc, cls) = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
        features, x["W_disc"], x["W_cls"]
    )
    adversary = metrics["discriminator_loss"]
    return {
        "disc_loss": adversary,
        "grad_W_disc": disc,
        "gen_loss": value - adversary - hyper["lambda"] * adversary,
        "grad_W_cls": cls,
    } | {f"grad_x_env{e}": g for e, g in enumerate(grads)}
