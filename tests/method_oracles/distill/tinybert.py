"""Without a mask: the authors' code averages over padded positions too."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, make_now

from fairkd_jax import losses
from fairkd_jax.distill.tinybert import TinyBERT
from fairkd_jax.types import Outputs


def adapt(case: Case):
    x, method = case.x, TinyBERT()
    batch = {"real": case.ones(x["zs"])}

    def net(scores, hidden):
        taps = {f"block{i:02}/attn_scores": s for i, s in enumerate(scores)}
        taps |= {f"block{i:02}/out": h for i, h in enumerate(hidden[1:])}
        return Outputs(None, taps=taps | {"embed": hidden[0]})

    teacher = net(x["att_t"], x["hid_t"])

    def terms(scores, hidden, kernel):
        dense = {"kernel": kernel.T, "bias": x["b"]}
        found = method.terms(net(scores, hidden), teacher, dense, batch)
        return tuple(map(jnp.mean, found))

    def loss(scores, hidden, kernel):
        params = {"teacher0": {"kernel": kernel.T, "bias": x["b"]}}
        kd = method(net(scores, hidden), (teacher,), batch, params, make_now())
        return jnp.mean(kd.per_example)

    given = x["att_s"], x["hid_s"], x["W"]
    attention, hidden = terms(*given)
    value, slopes = jax.value_and_grad(loss, (0, 1, 2))(*given)
    t = case.hyper["T"]
    soft = losses.soft_cross_entropy(x["zs"] / t, jax.nn.softmax(x["zt"] / t))
    return {
        "att_loss": attention,
        "rep_loss": hidden,
        "loss": value,
        "soft_ce_paper": jnp.mean(soft),
        **dict(zip(("grad_att_s", "grad_hid_s", "grad_W"), slopes)),
    }
