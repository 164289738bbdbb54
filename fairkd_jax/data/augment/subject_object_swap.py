"""Sentences whose subject and object change places (after arXiv 2004.11999), and their passives.

The rules, on sentences of five words "the A greeted the B" (an article, a word, a verb in -ed, an
article, another word), from premises and hypotheses:

    the A greeted the B         the B was greeted by the A     entailment
    the B was greeted by the A  the A greeted the B            entailment
    the A greeted the B         the B greeted the A            non-entailment
    the B was greeted by the A  the B greeted the A            non-entailment

The first two hold of every transitive verb. The last two hold unless the verb says the same of both
(married, resembled): those, and verbs without a passive, are left out.
"""

import dataclasses
import re

import numpy as np

from fairkd_jax.data.augmentation import (
    Augmentation,
    evenly,
    extra,
    label_number,
    pairs_of,
    texts_of,
)
from fairkd_jax.data.dataset import DataSet, Split

SENTENCE = re.compile(r"(the|a|an) ([a-z]+) ([a-z]+ed) (the|a|an) ([a-z]+)[.!]?")
SAME_OF_BOTH = (
    "married wed divorced dated resembled matched mirrored equalled equaled balanced joined faced "
    "bordered neighboured neighbored touched battled debated differed"
)
NO_PASSIVE = (  # or no past tense
    "lacked weighed lasted measured remained seemed appeared turned stayed suited concerned need "
    "feed speed bleed breed seed weed"
)
LEFT_OUT = frozenset(f"{SAME_OF_BOTH} {NO_PASSIVE}".split())


@dataclasses.dataclass(frozen=True)
class SubjectObjectSwap(Augmentation):
    """Four pairs of each such sentence; a pair whose label the set does not have is unlabelled."""

    needs = ("premise", "hypothesis")

    count: int = 500  # sentences at most, evenly spaced through the split; 0: all
    different: str = (
        "non-entailment"  # the label of a swapped pair: "neutral" where there are three
    )

    def examples(self, train: Split, dataset: DataSet) -> Split:
        texts = [text for name in self.needs for text in texts_of(train.columns, name)]
        found = [parts for text in dict.fromkeys(texts) if (parts := parse(text))]
        if not found:
            raise ValueError("no premise or hypothesis is of the form 'the A greeted the B'")
        pairs, names = [], []
        for subject, verb, other in (found[i] for i in evenly(self.count, len(found))):
            active = _sentence(subject, verb, other)
            passive = _sentence(other, f"was {verb} by", subject)
            swapped = _sentence(other, verb, subject)
            pairs += [(active, passive), (passive, active), (active, swapped), (passive, swapped)]
            names += ["entailment"] * 2 + [self.different] * 2
        numbers = [label_number(train, name) for name in names]
        raw = pairs_of(pairs)
        return extra(
            train,
            label=np.array([n or 0 for n in numbers]),
            attribute=dataset.attribute_of(raw),
            labelled=np.array([n is not None for n in numbers]),
            **raw,
        )


def parse(text: str) -> tuple[str, str, str] | None:
    """(subject, verb, object) of a sentence of which the rules hold, else None."""
    found = SENTENCE.fullmatch(text.strip().lower())
    if not found or found[3] in LEFT_OUT or found[2] == found[5]:
        return None
    return f"{found[1]} {found[2]}", found[3], f"{found[4]} {found[5]}"


def _sentence(*parts: str) -> str:
    text = " ".join(parts)
    return f"{text[0].upper()}{text[1:]}."
