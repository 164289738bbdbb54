"""A layer whose attention is mixed with another's, and the loss of both nets."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, reduce

from fairkd_jax.debias.read import READ
from fairkd_jax.models.layers import attend
from fairkd_jax.models.tape import Tape
from fairkd_jax.types import Outputs

TAP = "block00/attn_probs"


def adapt(case: Case):
    x, heads = case.x, case.hyper["heads"]
    method = READ(share=case.hyper["rho"], temperature=case.hyper["bias_temperature"])
    mask = x["mask"][:, None, None, :] > 0

    def attention(hidden, w_query, names, edits):
        """(context, attention) of the layer with these queries and keys, and the one value."""
        weights = {name: x[f"{name}_weight"] for name in (*names, "value")}
        weights |= {"query": w_query} if "query" in names else {}
        query, key, value = (
            (hidden @ weights[name].T + x[f"{name}_bias"]).reshape(*hidden.shape[:2], heads, -1)
            for name in (*names, "value")
        )
        tape = Tape(TAP, edits)
        context = attend(query, key, value, mask, tape, "block00/attn").reshape(hidden.shape)
        return context, tape.finish()[TAP]

    own, of_bias = ("query", "key"), ("query_bias", "key_bias")

    def mixed(hidden, w_query):
        bias = attention(hidden, w_query, of_bias, {})[1]
        outputs = {"bias": Outputs(None, taps={TAP: bias})}
        edits = method.passes({}, outputs, {}, None, None)["student"].edits
        context, probs = attention(hidden, w_query, own, edits)
        return jnp.sum(context**2), (context, probs, edits[TAP].value)

    layer = x["hidden"], x["query_weight"]
    (_, (context, probs, bias)), grads = jax.value_and_grad(mixed, (0, 1), has_aux=True)(*layer)
    tested, main = attention(*layer, own, {})

    def loss(z, z_bias):
        batch = {"label": x["y"], "real": case.ones(x["y"])}
        return reduce(method, z, batch, {}, {}, extra={"bias": Outputs(z_bias)})

    nets = x["z"], x["z_bias"]
    (total, (_, metrics)), slopes = jax.value_and_grad(loss, (0, 1), has_aux=True)(*nets)
    return {
        "attention_main": main,
        "attention_bias": bias,
        "attention_mixed": probs,
        "context_mixed": context,
        "context_eval": tested,
        "grad_hidden_of_sumsq_context": grads[0],
        "grad_Wq_of_sumsq_context": grads[1],
        "loss_main": total - metrics["bias_loss"],
        "loss_total": total,
        "grad_z": slopes[0],
        "grad_z_bias": slopes[1],
    }
