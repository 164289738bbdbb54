"""Learned-mixin: a product of experts whose strength the net itself learns (arXiv 1909.03683).

`c = softplus(w . h + v)` by example, of the features h; `CE(log softmax(z) + c b, y)` with `b` the
bias models' log-probabilities. Learned-mixin +H adds `penalty * H(softmax(c b))`, without which the
net may learn to leave the bias models out.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax.debias import biased
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import task_loss
from fairkd_jax.types import Array


@struct.dataclass
class LearnedMixin(biased.Biased, Debiaser):
    """The task loss of the mixture; it reduces by the mean. The gradient reaches h through c.

    Of several sources the log-probabilities are summed first, so c is one for all.
    """

    search = {"penalty": (0.0, 0.03, 0.1)}

    penalty: Array = 0.0  # weight of the entropy; .03 is the authors' default

    def init(self, spec, key):
        """Own parameters: w, as a dense layer of PyTorch begins (the authors'), and v."""
        features = spec.student.features.shape[-1]
        w = jax.random.uniform(key, (features,), minval=-1, maxval=1) / jnp.sqrt(features)
        return {"w": w, "v": jnp.zeros(())}, {}

    def factor(self, features: Float[JaxArray, "B D"], params: dict) -> Float[JaxArray, "B"]:
        """c, the strength of the bias models."""
        return jax.nn.softplus(jnp.sum(features * params["w"], axis=1) + params["v"])

    def task(self, outputs, batch, params, now):
        """Cross-entropy of the mixture and the weighted entropy, [B]."""
        student = outputs["student"]
        factor = self.factor(student.features, params)
        mixed = factor[:, None] * biased.product(self, batch)
        log_probs = jax.nn.log_softmax(mixed)
        entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=1)
        return task_loss(student.logits + mixed, batch) + self.penalty * entropy
