"""RUBi: `CE(z * sigmoid(z_b), y)`, logits masked by those of a bias model (arXiv 1906.10169).

Where the bias model is sure and right, what is left of the loss is small, and so is the gradient.
"""

import jax
from flax import struct

from fairkd_jax.debias import biased
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import task_loss


@struct.dataclass
class RUBi(biased.Biased, Debiaser):
    """The task loss of the masked logits; it reduces by the mean, and the net predicts unmasked.

    The formula is robust-nli's (arXiv 1909.06321); the bias branch learns beside the net there and
    in the paper, by a loss of its own, and here it is frozen. Of a source that is no net,
    log-probabilities are the logits: its mask is at most one half. Those of several sources are
    summed.
    """

    def task(self, outputs, batch, params, now):
        """Cross-entropy of the masked logits, [B]."""
        said = sum(biased.read(batch, t, "logits", "log_probs") for t in self.tables)
        return task_loss(outputs["student"].logits * jax.nn.sigmoid(said), batch)
