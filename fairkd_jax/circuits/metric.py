"""What is measured of a net whose inside is changed: by example, and larger is better.

logit_difference  z_y - max over other classes c of z_c (arXiv 2211.00593 with two classes)
kl                -KL(p || q) in nats, p of the whole net on the clean input, q of the changed
                  one (arXiv 2304.14997). Its gradient is 0 where nothing is changed
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
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


@dataclasses.dataclass(frozen=True)
class Merged:
    """A metric of the labels of a set, of which several classes of a net may be one.

    The logit of a label is log sum exp of its classes' logits: its log-probability and a constant.
    """

    of: Metric
    labels: tuple[int, ...]  # of each class

    def __call__(
        self, logits: Float[Array, "B C"], whole: Float[Array, "B C"], label: Int[Array, "B"]
    ) -> Float[JaxArray, "B"]:
        return self.of(self._merged(logits), self._merged(whole), label)

    def _merged(self, logits: Float[Array, "B C"]) -> Float[JaxArray, "B Y"]:
        classes = [np.flatnonzero(np.equal(self.labels, y)) for y in range(max(self.labels) + 1)]
        return jnp.stack([jax.nn.logsumexp(logits[:, own], axis=1) for own in classes], axis=1)


def metric(name: str, labels: tuple[int, ...] = ()) -> Metric:
    """With `labels`, of those that the classes of a net count as; left out, they are its classes.

    Raises UnknownName for one that is not there.
    """
    if name not in METRICS:
        raise UnknownName(name, "metric of circuits:", METRICS)
    own = labels == tuple(range(len(labels)))
    return METRICS[name] if own else Merged(METRICS[name], labels)
