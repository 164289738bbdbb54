"""[CLS] states as the first tokens behind blocks that meet one by one; both reductions."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, make_now

from fairkd_jax import losses
from fairkd_jax.distill.logits import Logits
from fairkd_jax.distill.pkd import PKD
from fairkd_jax.types import Outputs


def adapt(case: Case):
    x, hyper = case.x, case.hyper
    blocks = [f"block{i:02}" for i in range(x["hs"].shape[1])]

    def net(logits, states):
        taps = {f"{b}/out": states[:, i, None] for i, b in enumerate(blocks)}
        return Outputs(logits, taps=taps)

    def run(method, hs):
        nets = net(x["zs"], hs), (net(x["zt"], x["ht"]),)
        return jnp.mean(method(*nets, {}, {}, make_now()).per_example)

    layers = tuple((b, b) for b in blocks)
    patience = PKD(layers=layers, reduction="mean")
    mean, slope = jax.value_and_grad(lambda hs: run(patience, hs))(x["hs"])
    paper = run(PKD(layers=layers), x["hs"])
    ce = jnp.mean(losses.cross_entropy(x["zs"], x["y"]))
    soft = run(Logits(temperature=hyper["T"]), x["hs"])
    return {
        "patience_mean": mean,
        "grad_patience_mean_hs": slope,
        "patience_paper": paper,
        "total_paper": (1 - hyper["alpha"]) * ce + hyper["alpha"] * soft + hyper["beta"] * paper,
    }
