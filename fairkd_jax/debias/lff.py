"""Learning from failure: two nets side by side, one encouraged in its bias (arXiv 2007.02561).

The biased net learns by generalised cross-entropy; the student's examples weigh
`w = CE_b / (CE_b + CE_s)`, so those that the biased net fails on weigh most (algorithm 1).

A step costs 2.1x that of ERM (processor time, ResNet tiny, 64 x 32 px): two nets are trained.
"""

import jax
import jax.numpy as jnp
from flax import struct

from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import generalized_cross_entropy, masked_mean, task_loss
from fairkd_jax.types import Array, Spec


@struct.dataclass
class LfF(Debiaser):
    """Weights come from the task losses of both nets and apply to all of the student's loss.

    As in the authors' code, a loss is averaged over an example's visits (the first one sets it) and
    divided by the largest such average in its class over the whole training set, unvisited examples
    counting 0. The biased net's loss is the paper's `(1 - p^q) / q`; the code's is `q` times that.
    Where an example is drawn twice in one batch, its mean loss there is one visit.
    """

    extra_nets = ("biased",)
    couples_examples = True  # through the averages of the whole training set
    search = {"q": (0.5, 0.7, 0.9), "decay": (0.7, 0.9)}

    q: Array = 0.7  # towards 1 the biased net attends ever more to easy examples
    decay: Array = 0.7  # of the averages over visits

    def check(self, spec: Spec) -> None:
        """Raises ValueError for `q` out of range, or an unknown number of training examples."""
        if not 0 < self.q <= 1:
            raise ValueError(f"lff: q = {self.q}, expected a number above 0 and up to 1")
        if spec.num_examples < 1:
            raise ValueError(
                f"lff remembers a loss per example: num_examples = {spec.num_examples}, expected "
                "one more than the largest id of the training split"
            )

    def init(self, spec, key):
        """Memory, by example id: average losses of both nets, and the label (-1: unvisited)."""
        averages = {net: jnp.zeros(spec.num_examples, jnp.float32) for net in ("biased", "student")}
        return {}, averages | {"label": jnp.full(spec.num_examples, -1, jnp.int32)}

    def __call__(self, terms, outputs, batch, params, now, key):
        """The student's weighted mean loss plus the biased net's; the nets share no parameter."""
        real, label = batch["real"], batch["label"]
        biased = outputs["biased"].logits
        visits = {"biased": task_loss(biased, batch), "student": terms.task}
        visits = jax.lax.stop_gradient(visits)

        memory, relative = self._remember(now.memory, visits, batch, biased.shape[1])
        weights = relative["biased"] / (relative["biased"] + relative["student"] + 1e-8)
        student_loss = masked_mean(weights * terms.total, real)
        biased_loss = masked_mean(generalized_cross_entropy(biased, label, self.q), real)
        metrics = {"mean_weight": masked_mean(weights, real), "biased_loss": biased_loss}
        return student_loss + biased_loss, memory, metrics

    def _remember(self, memory, visits, batch, num_classes):
        """(memory after this batch, average losses [B] relative to the largest of the class)."""
        size = memory["label"].shape[0]
        here = jnp.where(batch["real"] > 0, batch["id"], size)  # out of range: dropped
        count = jax.ops.segment_sum(batch["real"], here, size)
        known = memory["label"] >= 0
        labels = memory["label"].at[here].set(batch["label"], mode="drop")

        averages, relative = {}, {}
        for net, losses in visits.items():
            old = memory[net]
            new = jax.ops.segment_sum(losses, here, size) / jnp.maximum(count, 1.0)
            seen = jnp.where(known, self.decay * old + (1 - self.decay) * new, new)
            averages[net] = jnp.where(count > 0, seen, old).astype(old.dtype)
            largest = jax.ops.segment_max(averages[net], labels, num_classes)[batch["label"]]
            relative[net] = averages[net].at[here].get(mode="clip") / jnp.maximum(largest, 1e-8)
        return averages | {"label": labels}, relative
