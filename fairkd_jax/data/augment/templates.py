"""Pairs from the templates of `template_nli`, after the augmentation of HANS (arXiv 1902.01007).

In equal numbers entailed and not, by templates in which all words of the hypothesis occur in the
premise. Each label is that of its template's grammar.
"""

import dataclasses
import random

import numpy as np

from fairkd_jax.data.augmentation import Augmentation, extra, label_number, pairs_of, texts_of
from fairkd_jax.data.dataset import DataSet, Split
from fairkd_jax.data.sets.template_nli import HEURISTICS, LABELS, TEMPLATES, fresh
from fairkd_jax.registry import UnknownName


@dataclasses.dataclass(frozen=True)
class Templates(Augmentation):
    """A pair whose label the set does not have ("non-entailment" in MNLI) is unlabelled."""

    needs = ("premise", "hypothesis")

    count: int = 2000  # pairs
    kinds: tuple[str, ...] = HEURISTICS  # and "no_overlap"
    labelled: bool = True  # False: the teacher alone says what they are
    seed: int = 0  # of the pairs, not of training

    def __post_init__(self):
        super().__post_init__()
        for kind in self.kinds:
            if kind not in (known := {kind for kind, _ in TEMPLATES}):
                raise UnknownName(kind, "kind in templates.kinds:", known)
        if self.count < 1 or not self.kinds:
            raise ValueError(f"templates: count = {self.count} pairs of kinds {self.kinds}")

    def examples(self, train: Split, dataset: DataSet) -> Split:
        rng = random.Random(f"{self.seed} templates")
        seen = set(zip(*(texts_of(train.columns, name) for name in self.needs)))
        pairs, names = [], []
        for i in range(self.count):
            kind = self.kinds[i // 2 % len(self.kinds)]
            choices = TEMPLATES[kind, LABELS[i % 2]]
            template = choices[i // (2 * len(self.kinds)) % len(choices)]
            pairs.append(fresh(template, "train", seen, rng))
            names.append(LABELS[i % 2])
        numbers = [label_number(train, name) for name in names]
        raw = pairs_of(pairs)
        return extra(
            train,
            label=np.array([n or 0 for n in numbers]),
            attribute=dataset.attribute_of(raw),
            labelled=np.array([self.labelled and n is not None for n in numbers]),
            **raw,
        )
