"""Group distributionally robust optimisation (arXiv 1911.08731, algorithm 1 on minibatches).

`q_g <- q_g exp(step_size (l_g + adjustment / sqrt(n_g)))`, renormalised, then loss `sum_g q_g l_g`.
"""

import jax
import jax.numpy as jnp
from flax import struct

from fairkd_jax.debias.base import Debiaser, require_groups
from fairkd_jax.losses import group_means
from fairkd_jax.types import Array, Spec


@struct.dataclass
class GroupDRO(Debiaser):
    """The worst groups weigh most, by exponentiated gradient ascent on the group weights `q`.

    A group absent from the batch has loss 0 and no adjustment, as algorithm 1 updates only the
    group that it drew; the authors' minibatch code adjusts absent groups too. The adjustment moves
    `q` and is no part of the loss returned. The paper draws groups equally often and relies on
    strong weight decay.
    """

    sees_attributes = True
    couples_examples = True
    search = {"step_size": (0.01, 0.03, 0.1), "adjustment": (0.0, 1.0, 2.0)}

    step_size: Array = 0.01
    adjustment: Array = 0.0  # the paper's C: how much small groups' losses are raised

    def check(self, spec: Spec) -> None:
        """Raises ValueError for a group without training examples."""
        require_groups(spec, "group_dro")

    def init(self, spec, key):
        """Memory: weights of the groups."""
        groups = spec.group_counts.shape[0]
        q = jnp.full(groups, 1.0 / groups, jnp.float32)
        return {}, {"q": q}

    def __call__(self, terms, outputs, batch, params, now, key):
        """Updates `q`, then weighs the group means of this batch by it."""
        q = now.memory["q"]
        losses, present = group_means(terms.total, batch["group"], batch["real"], q.shape[0])
        margin = jnp.where(present > 0, self.adjustment / jnp.sqrt(now.group_counts), 0.0)
        # A softmax of log q + x is q exp(x) renormalised, and never overflows.
        ascent = self.step_size * (jax.lax.stop_gradient(losses) + margin)
        q = jax.nn.softmax(jnp.log(q) + ascent).astype(q.dtype)
        metrics = {f"q{g}": q[g] for g in range(q.shape[0])}
        return jnp.sum(q * losses), {"q": q}, metrics
