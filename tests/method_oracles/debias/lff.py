"""Steps of both nets, and of the averages over visits."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, make_spec, reduce, start

from fairkd_jax import losses
from fairkd_jax.debias.lff import LfF
from fairkd_jax.types import Outputs


def adapt(case: Case):
    x, found = case.x, {}
    method = LfF(q=case.hyper["q"], decay=case.hyper["ema_alpha"])
    spec = make_spec(num_examples=len(x["train_labels"]), num_classes=x["z_b_1"].shape[1])
    params, memory = start(method, spec, case.dtype)
    for k in (int(name.split("_")[1]) for name in sorted(x) if name.startswith("index_")):
        index = x[f"index_{k}"]
        batch = {"label": x["train_labels"][index], "id": index, "real": case.ones(index)}

        def step(z_d, z_b, shift=0.0, batch=batch, memory=memory):
            extra = {"biased": Outputs(z_b)}
            return reduce(method, z_d, batch, params, memory, extra=extra, shift=shift)

        nets = (x[f"z_d_{k}"], x[f"z_b_{k}"])
        weight = jax.grad(lambda s, nets=nets, step=step: step(*nets, s)[0])(
            jnp.zeros_like(nets[0][:, 0])
        )
        (loss, (memory, metrics)), grads = jax.value_and_grad(step, (0, 1), has_aux=True)(*nets)
        found |= {
            f"ema_b_{k}": memory["biased"],
            f"ema_d_{k}": memory["student"],
            f"weight_{k}": weight * len(index),
            f"loss_d_{k}": loss - metrics["biased_loss"],
            f"grad_z_d_{k}": grads[0],
            f"gce_value_{k}": losses.generalized_cross_entropy(nets[1], batch["label"], method.q),
            f"loss_b_paper_{k}": metrics["biased_loss"],
            f"grad_z_b_paper_{k}": grads[1],
        }
    return found
