"""The training examples on which the shortcut is wrong, drawn more often than they occur.

Beside the image view's `crop` and `flip` these are new pictures at every step.
"""

import dataclasses

import numpy as np

from fairkd_jax.data.augmentation import Augmentation, conflicts, copies
from fairkd_jax.data.dataset import DataSet, Split


@dataclasses.dataclass(frozen=True)
class Conflicting(Augmentation):
    """Copies, with their labels: what is known of attributes is used."""

    sees_attributes = True

    def examples(self, train: Split, dataset: DataSet) -> Split:
        rows = np.flatnonzero(conflicts(train))
        return copies(train, {k: v[rows] for k, v in train.columns.items()})
