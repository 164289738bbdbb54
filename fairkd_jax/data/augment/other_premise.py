"""Hypotheses beside premises of other examples, so that a hypothesis alone tells nothing.

Whether another premise entails a hypothesis no rule knows, so these pairs are unlabelled; whoever
knows that none does in a set may say so.
"""

import dataclasses

import numpy as np

from fairkd_jax.data.augmentation import Augmentation, evenly, extra, label_number, texts_of
from fairkd_jax.data.dataset import DataSet, Split, draws
from fairkd_jax.registry import UnknownName


@dataclasses.dataclass(frozen=True)
class OtherPremise(Augmentation):
    """Pairs of a hypothesis and a premise that is not its own.

    With `label` given they have it, and hypotheses are those of examples of other labels: each
    then occurs with its own label and with that one.
    """

    needs = ("premise", "hypothesis")

    count: int = 2000  # pairs at most, evenly spaced through the split; 0: all
    label: str = ""  # which all of these pairs are said to have; "": unlabelled
    seed: int = 0  # of who meets whom, not of training

    def examples(self, train: Split, dataset: DataSet) -> Split:
        number = label_number(train, self.label)
        if self.label and number is None:
            raise UnknownName(self.label, "label in other_premise.label:", train.info.label_names)
        pool = np.flatnonzero(train.columns["label"] != (-1 if number is None else number))
        rows = pool[evenly(self.count, len(pool))]
        premises = texts_of(train.columns, "premise")
        start = (draws(self.seed, 0, train.columns["id"][rows], 1)[:, 0] * len(train)).astype(int)
        partners = [
            _next_other(premises, row, first) for row, first in zip(rows.tolist(), start.tolist())
        ]
        raw = {
            "premise": np.array([premises[i] for i in partners], object),
            "hypothesis": train.columns["hypothesis"][rows],
        }
        return extra(
            train,
            label=np.full(len(rows), number or 0),
            attribute=dataset.attribute_of(raw),
            labelled=number is not None,
            **raw,
        )


def _next_other(premises: list[str], row: int, first: int) -> int:
    """The first row from `first` on, round about, with another premise than `row` has."""
    for i in range(len(premises)):
        if premises[(place := (first + i) % len(premises))] != premises[row]:
            return place
    raise ValueError("all premises of the split are alike")
