"""Two sentence encodings under a reversed gradient: both methods of the paper."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, reduce

from fairkd_jax.debias.dann import discriminate
from fairkd_jax.debias.hypothesis_adversary import HypothesisAdversary
from fairkd_jax.debias.random_premise import RandomPremise
from fairkd_jax.types import Outputs


def adapt(case: Case):
    x, hyper = case.x, case.hyper
    batch = {"label": x["y"], "real": case.ones(x["y"])}

    def layers(name):
        numbers = sorted(k.split("_")[2] for k in x if k.startswith(name) and k.endswith("weight"))
        return {
            f"layer{n}": {"kernel": x[f"{name}_{n}_weight"].T, "bias": x[f"{name}_{n}_bias"]}
            for n in numbers
        }

    def head(u, v):  # without activation, as the code has it unless told
        joined = jnp.concatenate([u, v, jnp.abs(u - v), u * v], axis=1)
        return joined, lambda joined: discriminate(layers("nli_classifier"), joined, lambda x: x)

    first = HypothesisAdversary(loss_weight=hyper["lambda_loss"], strength=hyper["lambda_enc"])

    def one(u, v, classifier):
        joined, answer = head(u, v)
        extra = {"student/hypothesis": Outputs(None, v)}
        params = {"classifier": classifier}
        loss, (_, metrics) = reduce(first, answer(joined), batch, params, {}, extra=extra)
        return loss, metrics["hypothesis_loss"]

    nets = x["u"], x["v"], layers("hyp_classifier")
    (total, adversary), grads = jax.value_and_grad(one, (0, 1, 2), has_aux=True)(*nets)

    second = RandomPremise(rate=1.0, strength=hyper["lambda_enc_method2"])
    words = jnp.stack([x["u"], x["v"]], axis=1)  # a token each
    segments = jnp.broadcast_to(jnp.arange(2), words.shape[:2])
    inputs = {"mask": jnp.ones_like(segments), "segments": segments}
    edits = second.passes(inputs, {}, batch, None, jax.random.key(0))["student/random"].edits

    def two(words):
        words = edits["input"](words)
        joined, answer = head(words[:, 0], words[:, 1])
        extra = {"student/random": Outputs(answer(edits["features"](joined)))}
        return reduce(second, answer(joined), batch, {}, {}, extra=extra)[0]

    loss, slope = jax.value_and_grad(two)(words)
    return {
        "loss_nli": total - first.loss_weight * adversary,
        "loss_hyp": adversary,
        "total": total,
        "grad_u": grads[0],
        "grad_v": grads[1],
        "grad_hyp_W0": grads[2]["layer0"]["kernel"].T,
        "grad_v_from_hyp": jax.grad(lambda v: one(nets[0], v, nets[2])[1])(x["v"]),
        "loss_random_premise": loss,
        "grad_u_random_premise": slope[:, 0],
        "grad_v_random_premise": slope[:, 1],
    }
