"""What is measured of a net whose inside is changed: by example, and larger is better.

logit_difference  z_y - max over other classes c of z_c (arXiv 2211.00593 with two classes)
kl                -KL(p || q) in nats, p of the whole net on the clean input, q of the changed
                  one (arXiv 2304.14997). Its gradient is 0 where nothing is changed
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array as JaxArray
from jaxtyping import Float, Int

from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Array

Metric = Callable[[Array, Array, Array], Array]
"""(logits [B, C], those of the whole net on clean inputs, labels [B]) -> [B]."""


def logit_difference(
    logits: Float[Array, "B C"], whole: Float[Array, "B C"], label: Int[Array, "B"]
) -> Float[JaxArray, "B"]:
    own = jax.nn.one_hot(label, logits.shape[1], dtype=bool)
    others = jnp.max(jnp.where(own, -jnp.inf, logits), axis=1)
    return jnp.sum(jnp.where(own, logits, 0), axis=1) - others


def kl(
    logits: Float[Array, "B C"], whole: Float[Array, "B C"], label: Int[Array, "B"]
) -> Float[JaxArray, "B"]:
    p, q = jax.nn.log_softmax(whole), jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(p) * (p - q), axis=1)


METRICS: Mapping[str, Metric] = {"logit_difference": logit_difference, "kl": kl}


def metric(name: str) -> Metric:
    """Raises UnknownName for one that is not there."""
    if name not in METRICS:
        raise UnknownName(name, "metric of circuits:", METRICS)
    return METRICS[name]
