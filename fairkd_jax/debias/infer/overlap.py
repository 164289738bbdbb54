"""What word overlap says of a pair: a logistic regression on features made by hand (1909.03683).

The bias-only model of that paper for HANS: does every word of the hypothesis occur in the premise,
which share of them, is it a contiguous part of the premise, by how much is it shorter, and the
mean, least and second least similarity of its words to the premise's. The similarities there are
cosines of word vectors; here words are alike only where they are equal, so the mean is the share,
the least "every word", the second least "every word but one". Fitted by scikit-learn, as in the
authors' code (chrisc36/debias): classes balanced, C = 100, entailed or not; the other labels share
the rest evenly.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from fairkd_jax.data.dataset import Split
from fairkd_jax.data.shortcuts import words
from fairkd_jax.debias.inference import Inference
from fairkd_jax.registry import UnknownName

ROWS_AT_ONCE = 2**14


def features(premise: str, hypothesis: str) -> tuple[float, ...]:
    """Every word, every word but one, share of words, contiguous, how much shorter.

    The last is `log max(words more in the premise, 1)` (details recalled).
    """
    theirs, own = words(premise), words(hypothesis)
    inside, there = sum(map({*theirs}.__contains__, own)), bool(own)
    found = (
        there and inside == len(own),
        there and inside >= len(own) - 1,
        inside / max(len(own), 1),
        there and f" {' '.join(own)} " in f" {' '.join(theirs)} ",
        math.log(max(len(theirs) - len(own), 1)),
    )
    return tuple(map(float, found))


@dataclasses.dataclass(frozen=True)
class Overlap(Inference):
    """Column "log_probs" [N, C], natural logarithms, in the order of the labels."""

    needs: ClassVar = ("premise", "hypothesis")

    label: str = "entailment"  # the one that overlap suggests
    inverse_penalty: float = 100.0  # C of the regression

    def __post_init__(self):
        if not self.inverse_penalty > 0:
            raise ValueError(
                f"overlap: inverse_penalty = {self.inverse_penalty}, expected a number above 0"
            )

    def check(self, examples: Split) -> None:
        """Raises UnknownName for a label that is not there, ValueError where all or none are."""
        if self.label not in examples.info.label_names:
            raise UnknownName(self.label, "label, asked for by overlap:", examples.info.label_names)
        entailed, known = self._labels(examples)
        if len({*entailed[known].tolist()}) < 2:
            raise ValueError(f"overlap: all or no example has the label {self.label!r}")

    def columns(self, examples, tables, seed):
        """Nothing is drawn. Of examples without a known label nothing is learnt."""
        from sklearn.linear_model import LogisticRegression  # half a second

        entailed, known = self._labels(examples)
        seen = np.array([features(*pair) for pair in _pairs(examples)], np.float64)
        model = LogisticRegression(C=self.inverse_penalty, class_weight="balanced", max_iter=1000)
        model.fit(seen[known], entailed[known])
        return {"log_probs": self._spread(model.decision_function(seen), examples)}

    def _labels(self, examples: Split) -> tuple[np.ndarray, np.ndarray]:
        """(has each example the label, is its label known), both bool [N]."""
        entailed = examples.columns["label"] == examples.info.label_names.index(self.label)
        known = examples.columns.get("labelled", np.ones(len(examples)))
        return entailed, np.asarray(known) > 0

    def _spread(self, odds: Float[np.ndarray, "N"], examples: Split) -> Float[np.ndarray, "N C"]:
        """Log-probabilities from the log odds of the label; the others have equal parts."""
        names = examples.info.label_names
        others = -np.logaddexp(0, odds) - np.log(len(names) - 1)
        found = np.repeat(others[:, None], len(names), axis=1)
        found[:, names.index(self.label)] = -np.logaddexp(0, -odds)
        return found


def _pairs(examples: Split) -> Iterator[tuple[str, str]]:
    columns = [examples.columns[name] for name in Overlap.needs]
    for i in range(0, len(examples), ROWS_AT_ONCE):
        yield from zip(*(column[i : i + ROWS_AT_ONCE] for column in columns))
