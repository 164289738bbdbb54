"""Somebody else's decision, for any number of labels: as if all labels were equally frequent."""

import dataclasses

import numpy as np

from fairkd_jax.evaluation.decision import Decision


@dataclasses.dataclass(frozen=True)
class Balanced(Decision):
    """The likeliest label once the share that each has in validation is divided out."""

    strength: float = 1.0

    def fit(self, log_probs, label, attribute):
        """The shares, of which none is 0."""
        counts = 1 + np.bincount(label, minlength=log_probs.shape[1])
        return {"shares": (counts / counts.sum()).tolist()}

    def apply(self, parameters, log_probs, attribute, chance):
        """Row by row."""
        return np.argmax(log_probs - self.strength * np.log(parameters["shares"]), axis=1)
