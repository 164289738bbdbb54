"""Premises with their words in another order: overlap stays what it was, the meaning does not.

No one knows the label, so these pairs are unlabelled: a teacher that reads word order answers
otherwise than to the pair as it was.
"""

import dataclasses

import numpy as np

from fairkd_jax.data.augmentation import Augmentation, evenly, extra, texts_of
from fairkd_jax.data.dataset import DataSet, Split, draws


@dataclasses.dataclass(frozen=True)
class PremiseShuffle(Augmentation):
    """A shuffled premise, the hypothesis as it is."""

    needs = ("premise", "hypothesis")

    count: int = 2000  # pairs at most, evenly spaced through the split; 0: all
    seed: int = 0  # of the order, not of training

    def examples(self, train: Split, dataset: DataSet) -> Split:
        rows = evenly(self.count, len(train))
        chosen = {k: train.columns[k][rows] for k in ("id", "label", *self.needs)}
        words = [text.split() for text in texts_of(chosen, "premise")]
        numbers = draws(self.seed, 0, chosen["id"], max(map(len, words)))
        shuffled = [
            " ".join(some[i] for i in np.argsort(drawn[: len(some)], kind="stable"))
            for some, drawn in zip(words, numbers)
        ]
        raw = {"premise": np.array(shuffled, object), "hypothesis": chosen["hypothesis"]}
        attribute = dataset.attribute_of(raw)
        return extra(train, label=chosen["label"], attribute=attribute, labelled=False, **raw)
