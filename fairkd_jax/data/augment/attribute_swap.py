"""Training examples with another value of the planted attribute: the same digit in another colour.

For sets that plant their attribute and say how: `DataSet.with_attribute`.
"""

import dataclasses

import numpy as np

from fairkd_jax.data.augmentation import Augmentation, copies, evenly
from fairkd_jax.data.dataset import DataSet, Split, draws


@dataclasses.dataclass(frozen=True)
class AttributeSwap(Augmentation):
    """Each example with its label and one of the other values, each as likely."""

    sees_attributes = True

    count: int = 0  # examples at most, evenly spaced through the split; 0: all
    seed: int = 0  # of which value, where there are more than two

    def examples(self, train: Split, dataset: DataSet) -> Split:
        rows = evenly(self.count, len(train))
        some = Split({k: v[rows] for k, v in train.columns.items()}, train.info)
        values = len(train.info.attribute_names)
        drawn = draws(self.seed, 0, some.columns["id"], 1)[:, 0]
        further = 1 + (drawn * (values - 1)).astype(np.int32)
        attribute = (some.columns["attribute"] + further) % values
        return copies(train, dataset.with_attribute(some, attribute).columns)
