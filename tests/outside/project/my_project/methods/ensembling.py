"""Temporal ensembling (arXiv 1610.02242, algorithm 1): a net's own earlier answers teach it."""

import jax
import jax.numpy as jnp
from flax import struct

from fairkd_jax.distill.base import Distiller
from fairkd_jax.types import KD, Array


@struct.dataclass
class Ensembling(Distiller):
    """`w(t) |p - average of p so far|^2 / C`, `w` rising as `exp(-5 (1 - t)^2)` over the run.

    The average is over visits of an example; before the first there is no loss.
    """

    decay: Array = 0.6

    def init(self, spec, key):
        """Memory, by example id: averages, and the visits that they are of."""
        sums = jnp.zeros((spec.num_examples, spec.num_classes), jnp.float32)
        return {}, {"sums": sums, "visits": jnp.zeros(spec.num_examples, jnp.float32)}

    def __call__(self, student, teachers, batch, params, now):
        """[B]; an example that comes twice in a batch is visited once."""
        sums, visits = now.memory["sums"], now.memory["visits"]
        here = jnp.where(batch["real"] > 0, batch["id"], len(visits))  # out of range: dropped
        p, seen = jax.nn.softmax(student.logits), visits.at[here].get(mode="clip")
        mean = sums.at[here].get(mode="clip") / (1 - self.decay ** jnp.maximum(seen, 1))[:, None]
        losses = jnp.where(seen > 0, jnp.mean((p - mean) ** 2, axis=1), 0.0)

        old, answers = sums.at[here].get(mode="clip"), jax.lax.stop_gradient(p)
        new = self.decay * old + (1 - self.decay) * answers
        memory = {
            "sums": sums.at[here].set(new, mode="drop"),
            "visits": visits.at[here].set(seen + 1, mode="drop"),
        }
        rise = jnp.exp(-5 * (1 - now.step / now.steps) ** 2)
        return KD(per_example=rise * losses, penalty=jnp.zeros(()), memory=memory)
