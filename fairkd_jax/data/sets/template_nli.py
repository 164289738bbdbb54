"""Sentence pairs made from templates, in which word overlap predicts entailment until it does not.

The three heuristics are those of HANS (arXiv 1902.01007): the words of the hypothesis all occur in
the premise (lexical overlap), in a row (subsequence), as a clause of it (constituent). Templates
and vocabulary are our own; `=>` separates premise and hypothesis, `{n1}` and `{n2}` are different
words of class n, and in classes of word pairs `{y1}` and `{Y1}` are the two words of one pair.
"""

import dataclasses
import functools
import itertools
import random
import re
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from fairkd_jax.data.counterparts import subject_object, word_overlap
from fairkd_jax.data.dataset import DataSet, Flipped, Info, Split, make_split
from fairkd_jax.data.shortcuts import overlaps

LABELS = ("entailment", "non-entailment")
HEURISTICS = ("lexical_overlap", "subsequence", "constituent")

TEMPLATES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("lexical_overlap", "entailment"): (
        "the {n1} and the {n2} {i1} => the {n2} and the {n1} {i1}",
        "the {n1} was {t1} by the {n2} => the {n2} {t1} the {n1}",
        "the {n1} who {i1} {t1} the {n2} => the {n1} {t1} the {n2}",
        "the {n1} {l1} {t1} the {n2} => the {n1} {t1} the {n2}",
        "the {n1} {t1} the {n2} and the {n3} => the {n1} {t1} the {n3}",
        "the {n1} who {t1} the {n2} {i1} => the {n1} {i1}",
        "the {n1} {t1} the {n2} who {t2} the {n3} => the {n2} {t2} the {n3}",
        "the {n1} who the {n2} {t1} {i1} => the {n2} {t1} the {n1}",
        "the {j1} {n1} {i1} {l1} => the {n1} {i1}",
        "the {n1}, the {n2} and the {n3} {i1} => the {n1} and the {n3} {i1}",
        "the {n1} {i1} and {t1} the {n2} => the {n1} {t1} the {n2}",
    ),
    ("lexical_overlap", "non-entailment"): (
        "the {n1} {t1} the {n2} => the {n2} {t1} the {n1}",
        "the {n1} was {t1} by the {n2} => the {n1} {t1} the {n2}",
        "the {n1} beside the {n2} {t1} the {n3} => the {n3} {t1} the {n2}",
        "the {n1} and the {n2} {t1} the {n3} => the {n3} {t1} the {n1}",
        "the {n1} who the {n2} {t1} {t2} the {n3} => the {n1} {t1} the {n2}",
        "the {n1} {t1} the {n2} and the {n3} => the {n2} {t1} the {n3}",
        "the {n1} {t1} the {n2} who {t2} the {n3} => the {n3} {t1} the {n1}",
        "the {n1} who {t1} the {n2} {i1} => the {n2} {t1} the {n1}",
        "the {n1} {i1} before the {n2} {t1} the {n3} => the {n3} {t1} the {n2}",
        "the {j1} {n1} {t1} the {n2} => the {j1} {n2} {t1} the {n1}",
        "the {n1} {t1} the {n2} beside the {n3} => the {n3} {t1} the {n2}",
    ),
    ("subsequence", "entailment"): (
        "the {n1} and the {n2} {i1} => the {n2} {i1}",
        "the {n1} and the {n2} {t1} the {n3} => the {n2} {t1} the {n3}",
        "{j1} {p1} {i1} => {p1} {i1}",
        "{j1} {p1} {t1} the {n1} => {p1} {t1} the {n1}",
        "the {n1} {t1} the {n2} {l1} => the {n1} {t1} the {n2}",
        "the {n1} {i1} {l1} => the {n1} {i1}",
        "the {n1} {t1} the {n2} {m1} => the {n1} {t1} the {n2}",
        "the {n1} {i1} and {t1} the {n2} => the {n1} {i1}",
        "the {n1} {t1} the {n2} who {i1} => the {n1} {t1} the {n2}",
        "the {n1} {i1} {m1} {l1} => the {n1} {i1} {m1}",
        "the {n1} {t1} the {n2} and the {n3} => the {n1} {t1} the {n2}",
    ),
    ("subsequence", "non-entailment"): (
        "the {n1} {q1} the {n2} {i1} => the {n1} {q1} the {n2}",
        "the {n1} beside the {n2} {i1} => the {n2} {i1}",
        "the {n1} beside the {n2} {t1} the {n3} => the {n2} {t1} the {n3}",
        "the {n1} who {t1} the {n2} {i1} => the {n2} {i1}",
        "the {n1} {r1} {l1} {i1} => the {n1} {r1} {l1}",
        "before the {n1} {z1} the {n2} {i1} => the {n1} {z1} the {n2}",
        "the {n1} who {t1} the {n2} {t2} the {n3} => the {n2} {t2} the {n3}",
        "the {n1} {q1} the {n2} {t1} the {n3} => the {n1} {q1} the {n2}",
        "the {n1} {r1} {l1} {t1} the {n2} => the {n1} {r1} {l1}",
        "while the {n1} {z1} the {n2} {t1} the {n3} => the {n1} {z1} the {n2}",
        "the friend of the {n1} {t1} the {n2} => the {n1} {t1} the {n2}",
    ),
    ("constituent", "entailment"): (
        "because the {n1} {i1}, the {n2} {i2} => the {n1} {i1}",
        "since the {n1} {t1} the {n2}, the {n3} {i1} => the {n1} {t1} the {n2}",
        "the {n1} {k1} that the {n2} {i1} => the {n2} {i1}",
        "the {n1} {k1} that the {n2} {t1} the {n3} => the {n2} {t1} the {n3}",
        "{c1} the {n1} {t1} the {n2} => the {n1} {t1} the {n2}",
        "the {n1} {i1}, and the {n2} {t1} the {n3} => the {n2} {t1} the {n3}",
        "the {n1} {i1}, and the {n2} {i2} => the {n1} {i1}",
        "although the {n1} {t1} the {n2}, the {n3} {i1} => the {n3} {i1}",
        "after the {n1} {i1}, the {n2} {t1} the {n3} => the {n1} {i1}",
        "the {n1} {i1} because the {n2} {t1} the {n3} => the {n2} {t1} the {n3}",
        "the {n1} {i1} while the {n2} {i2} => the {n2} {i2}",
    ),
    ("constituent", "non-entailment"): (
        "if the {n1} {i1}, the {n2} {i2} => the {n1} {i1}",
        "unless the {n1} {t1} the {n2}, the {n3} {i1} => the {n1} {t1} the {n2}",
        "the {n1} {b1} that the {n2} {i1} => the {n2} {i1}",
        "the {n1} {b1} that the {n2} {t1} the {n3} => the {n2} {t1} the {n3}",
        "{u1} the {n1} {t1} the {n2} => the {n1} {t1} the {n2}",
        "the {n1} {i1}, or the {n2} {t1} the {n3} => the {n2} {t1} the {n3}",
        "the {n1} {i1}, or the {n2} {i2} => the {n1} {i1}",
        "whether or not the {n1} {i1}, the {n2} {i2} => the {n1} {i1}",
        "in case the {n1} {t1} the {n2}, the {n3} {i1} => the {n1} {t1} the {n2}",
        "the {n1} asked whether the {n2} {t1} the {n3} => the {n2} {t1} the {n3}",
        "it is unclear whether the {n1} {i1} {l1} => the {n1} {i1} {l1}",
    ),
    ("no_overlap", "entailment"): (
        "the {n1} {t1} the {n2} => the {n2} was {t1} by the {n1}",
        "the {n1} {y1} the {o1} => the {n1} {Y1} the {o1}",
        "the {n1} {y1} the {h1} => the {n1} {y1} the {H1}",
        "the {n1} {t1} the {n2} => someone {t1} the {n2}",
        "the {n1} {i1} {l1} => someone {i1}",
        "the {n1} {y1} the {h1} => the {h1} was {Y1} by someone",
        "the {n1} and the {n2} {i1} {l1} => two people {i1}",
        "the {n1} {y1} the {o1} {l1} => someone {Y1} something {l1}",
        "the {n1} {t1} the {n2} => it was the {n1} who {t1} the {n2}",
        "all the {j1} {p1} {i1} => some of the {j1} {p1} {i1}",
        "the {n1} {t1} the {n2} and {i1} => the {n1} {i1} too",
    ),
    ("no_overlap", "non-entailment"): (
        "the {n1} {t1} the {n2} => the {n1} was {t1} by the {n2}",
        "the {n1} {x1} the {o1} => the {n1} {X1} the {o1}",
        "the {n1} {i1} {l1} => the {n2} {i1}",
        "the {n1} {t1} the {n2} => the {n3} {t1} the {n2}",
        "the {n1} {t1} the {n2} => no one {t1} the {n2}",
        "the {n1} {y1} the {H1} => the {n1} {y1} the {h1}",
        "some of the {j1} {p1} {i1} => all the {j1} {p1} {i1}",
        "the {n1} {y1} the {o1} => the {n1} {Y1} the {o2}",
        "the {n1} {i1} {l1} => the {n1} {i1} {l2}",
        "the {n1} {t1} the {n2} => the {n1} {t1} the {n3}",
        "the {n1} {t1} the {n2} and {i1} => the {n1} never {i1}",
    ),
}


def _words(text: str) -> tuple:
    """Words between commas; a/b is a pair."""
    items = [item.strip() for item in text.split(",")]
    return tuple(tuple(item.split("/")) if "/" in item else item for item in items)


WORDS: Mapping[str, tuple] = {
    "n": _words(  # people
        "baker, sailor, painter, farmer, nurse, pilot, gardener, tailor, plumber, waiter, "
        "miner, dancer, singer, poet, hunter, miller, butcher, barber, carpenter, potter, "
        "shepherd, knight, duke, widow, uncle, cousin, neighbour, stranger, child, twin, cook, "
        "guard, scout, monk, clerk, diver, juggler, jockey, librarian, mechanic, chemist, "
        "dentist, printer, referee, surgeon"
    ),
    "p": _words(  # people, in the plural
        "bakers, sailors, painters, farmers, nurses, pilots, gardeners, tailors, plumbers, "
        "waiters, miners, dancers, singers, poets, hunters, barbers, carpenters, shepherds, "
        "knights, cousins, neighbours, children, twins, cooks, guards, scouts, monks, clerks, "
        "divers, jugglers"
    ),
    "t": _words(  # what one does to another; past tense and participle are one form
        "admired, greeted, ignored, blamed, praised, helped, invited, interrupted, rescued, "
        "teased, thanked, tricked, warned, kicked, pushed, hugged, pleased, annoyed, surprised, "
        "amused, insulted, defended, chased, photographed, tickled, scolded, consoled, "
        "questioned, applauded, betrayed"
    ),
    "i": _words(  # what one does alone
        "slept, laughed, sang, coughed, stumbled, smiled, waited, knelt, yawned, whistled, "
        "shivered, sneezed, wept, fainted, escaped, vanished, travelled, arrived, swam, "
        "complained, prayed, rested, blushed, giggled"
    ),
    "l": _words(  # places
        "near the harbour, in the garden, behind the mill, at the market, on the bridge, under "
        "the arch, by the river, outside the chapel, in the cellar, at the station, near the "
        "lighthouse, in the orchard, behind the barn, on the terrace"
    ),
    "j": _words(  # properties of people
        "old, tall, clever, tired, hungry, noisy, gentle, proud, lonely, lazy, honest, nervous, "
        "cheerful, rude, patient, sleepy"
    ),
    "m": _words(  # manners and times
        "loudly, quietly, often, again, gladly, slowly, twice, briefly, alone, yesterday"
    ),
    "k": _words(  # implies that what follows is so
        "knew, remembered, realised, discovered, noticed, learned, saw, recalled"
    ),
    "b": _words(  # implies nothing of what follows
        "thought, hoped, claimed, guessed, pretended, said, dreamed, imagined"
    ),
    "q": _words(  # takes a person, or a clause of which nothing is implied
        "believed, feared, doubted, expected, suspected, understood, predicted, assumed"
    ),
    "r": _words(  # takes nobody, or is a participle
        "trained, dressed, fought, raced, drilled, shaved, paid, served"
    ),
    "z": _words(  # takes somebody or nobody
        "bathed, followed, attacked, drove, called, obeyed, phoned, visited"
    ),
    "c": _words(  # implies what it stands before
        "clearly, obviously, undoubtedly, of course, certainly, indeed"
    ),
    "u": _words(  # implies nothing of what it stands before
        "perhaps, possibly, supposedly, allegedly, maybe, hopefully"
    ),
    "o": _words(  # things
        "lamp, ladder, basket, mirror, carpet, bicycle, window, kettle, wagon, statue, clock, "
        "curtain, suitcase, fence, piano"
    ),
    "y": _words(  # each means the other
        "purchased/bought, repaired/fixed, constructed/built, located/found, "
        "carried/transported, observed/watched, cleaned/washed, wrecked/destroyed"
    ),
    "x": _words(  # each excludes the other
        "opened/closed, kept/sold, lifted/dropped, hid/revealed, broke/mended, emptied/filled, "
        "liked/hated, lent/borrowed"
    ),
    "h": _words(  # each is the other, but not the other way round
        "sparrow/bird, trout/fish, tulip/flower, oak/tree, hammer/tool, violin/instrument, "
        "spaniel/dog, canoe/boat"
    ),
}
SHARES = {"train": 5, "val": 1, "test": 1, "hans": 1}  # eighths of all pairs, by checksum


@dataclasses.dataclass(frozen=True)
class TemplateNli(DataSet):
    """Does the premise entail the hypothesis, and do all words of the hypothesis occur in it?

    train      entailment with overlap and non-entailment without, in a share `correlation` of the
               pairs of each label; overlap comes from the three heuristics alike
    val, test  the four groups in equal numbers
    hans       overlap only: three heuristics x two labels in equal numbers; attribute = heuristic

    A share `label_noise` of each group of train and val carries the wrong label. A pair's checksum
    says which split it may be in, so no pair is in two splits.
    """

    correlation: float = 0.95
    label_noise: float = 0.0
    train: int = 4000  # pairs
    eval: int = 800  # pairs in each other split, rounded down to equal groups
    seed: int = 0  # of the data, not of training

    splits = tuple(SHARES)

    def __post_init__(self):
        for name in ("correlation", "label_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"template_nli: {name} = {getattr(self, name)}, expected 0 to 1")

    @property
    def info(self) -> Info:
        expected = {s: tuple(self._counts(s).values()) for s in ("train", "val", "test")}
        return Info(
            label_names=LABELS,
            attribute_names=("overlap", "no_overlap"),
            aligned=((True, False), (False, True)),
            licence="Apache-2.0, part of fairkd_jax",
            source="generated by fairkd_jax/data/sets/template_nli.py; heuristics of HANS "
            "(arXiv 1902.01007)",
            expected_counts=expected,
        )

    def load(self, split: str) -> Split:
        self.require(split)
        info = self.info
        if split == "hans":
            info = dataclasses.replace(
                info,
                attribute_names=HEURISTICS,
                aligned=((True,) * 3, (False,) * 3),
                expected_counts={"hans": tuple(self._counts("hans").values())},
            )
        rng = random.Random(f"{self.seed} {split}")
        seen: set[tuple[str, str]] = set()
        rows = []
        for (label, attribute), count in self._counts(split).items():
            wrong = round(self.label_noise * count) if split in ("train", "val") else 0
            for i in range(count):
                meant = LABELS[1 - LABELS.index(label)] if i < wrong else label
                kinds = HEURISTICS if attribute == "overlap" else (attribute,)
                choices = TEMPLATES[kinds[i % len(kinds)], meant]
                pair = fresh(choices[i // len(kinds) % len(choices)], split, seen, rng)
                rows.append((LABELS.index(label), info.attribute_names.index(attribute), *pair))
        order = sorted(range(len(rows)), key=[rng.random() for _ in rows].__getitem__)
        label, attribute, premise, hypothesis = zip(*(rows[i] for i in order))
        return make_split(
            info,
            np.array(label),
            np.array(attribute),
            premise=premise,
            hypothesis=hypothesis,
        )

    def flips(self) -> Mapping[str, Callable[[Split], Flipped]]:
        heuristic = functools.partial(word_overlap, classes={k: WORDS[k] for k in "npitoj"})
        return {"heuristic": heuristic, "subject_object": subject_object}

    def attribute_of(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        pairs = zip(columns["premise"].tolist(), columns["hypothesis"].tolist())
        return np.array([0 if overlaps(*pair) else 1 for pair in pairs], np.int32)

    def may_train(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        pairs = zip(columns["premise"].tolist(), columns["hypothesis"].tolist())
        return np.array([_split_of(*pair) == "train" for pair in pairs], bool)

    def _counts(self, split: str) -> dict[tuple[str, str], int]:
        """How many pairs of each (label, attribute), in the order of the group number."""
        attributes = HEURISTICS if split == "hans" else ("overlap", "no_overlap")
        groups = [(label, attribute) for label in LABELS for attribute in attributes]
        if split != "train":
            return {group: self.eval // len(groups) for group in groups}
        common = round(self.correlation * (self.train // 2))
        rare = self.train // 2 - common
        return dict(zip(groups, (common, rare, rare, common)))


def fresh(
    template: str, split: str, seen: set[tuple[str, str]], rng: random.Random
) -> tuple[str, str]:
    """A (premise, hypothesis) of the split that is not in `seen`, to which it is added."""
    for _ in range(5000):
        pair = _fill(template, rng)
        if pair not in seen and _split_of(*pair) == split:
            seen.add(pair)
            return pair
    raise ValueError(
        f"template_nli: no more pairs of {template!r} for split {split!r} after {len(seen)} pairs: "
        "ask for fewer"
    )


def _split_of(premise: str, hypothesis: str) -> str:
    """The only split that a pair may be in."""
    place = zlib.crc32(f"{premise} {hypothesis}".encode()) % 8
    ends = itertools.accumulate(SHARES.values())
    return next(split for split, end in zip(SHARES, ends) if place < end)


def _fill(template: str, rng: random.Random) -> tuple[str, str]:
    """(premise, hypothesis), sentences with a capital and a full stop."""
    words: dict[str, str] = {}
    for kind, number in dict.fromkeys(re.findall(r"\{(\w)(\d)\}", template.lower())):
        pool = WORDS[kind]
        while (word := pool[int(rng.random() * len(pool))]) in words.values():
            pass
        words[kind + number] = word
    for slot in [s for s, word in words.items() if isinstance(word, tuple)]:
        words[slot], words[slot.upper()] = words[slot]
    premise, hypothesis = template.format(**words).split(" => ")
    return tuple(s[0].upper() + s[1:] + "." for s in (premise, hypothesis))
