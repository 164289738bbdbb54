"""Clean examples, each beside a corrupt one that differs in one thing alone.

A set says what it can change (`DataSet.flips`); the ways that several sets share are here.
"""

import re
import zlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from fairkd_jax.data.augment.subject_object_swap import SENTENCE, parse
from fairkd_jax.data.dataset import DataSet, Encoder, Flipped, Split
from fairkd_jax.data.encoded import Encoded
from fairkd_jax.data.shortcuts import overlaps, words
from fairkd_jax.data.source import Source
from fairkd_jax.registry import UnknownName, name_of
from fairkd_jax.types import Batch

KINDS = ("aligned", "conflicting", "all")  # of clean examples
AT_ONCE = 512  # examples that are looked at together


def subject_object(split: Split) -> Flipped:
    """Hypotheses "the A greeted the B" as "the B greeted the A"; others have no counterpart."""
    texts = split.columns["hypothesis"][:].tolist()
    return _rewritten(split, [_swapped(text) for text in texts])


def _swapped(text: str) -> str | None:
    text = text.strip()
    said = text.rstrip(" .!")  # as HANS has it, a full stop stands apart
    found = SENTENCE.fullmatch(said.lower()) if parse(said) else None
    if found is None:
        return None
    spans = [found.span(i) for i in range(1, 6)]
    article, subject, verb, other, last = (text[a:b] for a, b in spans)
    other, article = (other.capitalize() if article[0].isupper() else other), article.lower()
    return " ".join((other, last, verb, article, subject)) + text[len(said) :]


def word_overlap(split: Split, classes: Mapping[str, Sequence]) -> Flipped:
    """One word of the hypothesis is another of its class, so that overlap of words begins or ends.

    `classes`: words that may stand in each other's place. Where all words of a hypothesis occur in
    the premise, its last word of a class is one that does not; where one alone does not occur, it
    is one that does. Others have no counterpart.
    """
    pools = [[w for w in pool if isinstance(w, str) and w.isalpha()] for pool in classes.values()]
    pool_of = {word: pool for pool in pools for word in pool}
    pairs = zip(*(split.columns[name][:].tolist() for name in ("premise", "hypothesis")))
    return _rewritten(split, [_toggled(*pair, pool_of) for pair in pairs])


def _toggled(premise: str, hypothesis: str, pool_of: Mapping[str, Sequence[str]]) -> str | None:
    there, own = words(premise), words(hypothesis)
    overlap = overlaps(premise, hypothesis)
    missing = [w for w in own if w not in there]
    candidates = [w for w in own if w in pool_of] if overlap else missing
    if not candidates or (not overlap and len(missing) > 1) or candidates[-1] not in pool_of:
        return None
    old = candidates[-1]
    if overlap:
        choices = [w for w in pool_of[old] if w not in there]
    else:
        choices = [w for w in there if w in pool_of[old] and w not in own]
    if not choices or own.count(old) > 1:
        return None
    new = choices[zlib.crc32(f"{premise} {hypothesis}".encode()) % len(choices)]
    changed = re.sub(rf"\b{old}\b", new, hypothesis)
    return changed if overlaps(premise, changed) != overlap else None


def _rewritten(split: Split, hypotheses: Sequence[str | None]) -> Flipped:
    rows = np.array([i for i, text in enumerate(hypotheses) if text is not None], int)
    columns = {name: column[rows] for name, column in split.columns.items()}
    columns["hypothesis"] = np.array([hypotheses[i] for i in rows] + [None], object)[:-1]
    return rows, Split(columns, split.info)


def other_background(split: Split) -> Flipped:
    """Images whose masks are known on the background of the next one with another attribute.

    For sets whose attribute is the background, with "image" and "mask" [N, Y, X], above 0 in front.
    What stood in front of the other's background is filled with its mean colour.
    """
    attribute = split.columns["attribute"]
    other = np.full(len(split), -1)
    for value in np.unique(attribute):
        rows, others = np.flatnonzero(attribute == value), np.flatnonzero(attribute != value)
        if len(others):
            other[rows] = others[np.arange(len(rows)) % len(others)]
    rows = np.flatnonzero(other >= 0)
    image, behind = split.columns["image"][rows], split.columns["image"][other[rows]].astype(float)
    front, there = ((split.columns["mask"][r] > 0)[..., None] for r in (rows, other[rows]))
    seen = np.maximum(np.sum(~there, axis=(1, 2), keepdims=True), 1)
    mean = np.sum(behind * ~there, axis=(1, 2), keepdims=True) / seen
    made = np.where(front, image, np.where(there, mean, behind).round().astype(np.uint8))
    columns = {name: column[rows] for name, column in split.columns.items()}
    return rows, Split(columns | {"image": made}, split.info)


class Paired(Source):
    """Clean examples of a split; their batches have their counterparts' views in "corrupt"."""

    def __init__(self, source: Source, rows: np.ndarray, corrupt: Split, left_out: Mapping):
        columns = {name: column[rows] for name, column in source.split.columns.items()}
        super().__init__(Split(columns, source.split.info), source.encoders)
        self.left_out = left_out  # how many examples have no counterpart, by reason
        self._clean, self._rows, self._other = source, rows, Source(corrupt, source.encoders)

    def encoded(self, view: str) -> Encoded:
        return self._clean.view(view).part(self._rows)

    def batch(
        self,
        rows: np.ndarray,
        lengths: Mapping[str, int] | None = None,
        views: Collection[str] | None = None,
    ) -> Batch:
        """All batches are as long as the longest pair: one shape, so one program."""
        names = sorted(self.encoders if views is None else views)
        found = {name: self.view(name).lengths for name in names}
        lengths = {name: int(own.max()) for name, own in found.items() if own is not None}
        clean = super().batch(rows, lengths, views)
        return clean | {"corrupt": self._other.batch(rows, lengths, views)["views"]}


def paired(
    source: Source, dataset: DataSet, how: str, kind: str, examples: int, views: Collection[str]
) -> Paired:
    """The first `examples` examples of a kind for which the set has a counterpart.

    Its inputs differ from the example's in each of the views, and have as many tokens: a position
    is then the same in both. Raises UnknownName for what the set cannot change, ValueError where
    there are fewer than two pairs.
    """
    if kind not in KINDS:
        raise UnknownName(kind, "kind of circuits:", KINDS)
    flips, split = dataset.flips(), source.split
    name = name_of(type(dataset))
    if how not in flips:
        raise UnknownName(how, f"pairs of circuits: what {name} can change:", flips)
    right = np.asarray(split.info.aligned)[split.columns["label"], split.columns["attribute"]]
    wanted = {"aligned": right, "conflicting": ~right, "all": np.ones(len(split), bool)}[kind]
    wanted, rows, parts = np.flatnonzero(wanted), [], []
    left_out = {"the set makes none of it": 0, "other or equal inputs": 0}
    for start in range(0, len(wanted), AT_ONCE):
        some = wanted[start : start + AT_ONCE]
        columns = {k: column[some] for k, column in split.columns.items()}
        made, corrupt = flips[how](Split(columns, split.info))
        like = [_comparable(source.encoders[v], columns, made, corrupt.columns) for v in views]
        good = np.flatnonzero(np.all([*like, np.ones(len(made), bool)], axis=0))
        left_out["the set makes none of it"] += len(some) - len(made)
        left_out["other or equal inputs"] += len(made) - len(good)
        good = good[: examples - sum(map(len, rows))]
        rows.append(some[made[good]])
        parts.append({k: column[good] for k, column in corrupt.columns.items()})
        if sum(map(len, rows)) >= examples:
            break
    found = np.concatenate(rows) if rows else np.zeros(0, int)
    if len(found) < 2:
        raise ValueError(
            f"circuits: of {len(wanted)} {kind} examples {len(found)} have a counterpart by "
            f"{how!r} of {name}, and two are needed: {left_out}"
        )
    joined = {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
    return Paired(
        source, found, Split(joined, split.info), {k: n for k, n in left_out.items() if n}
    )


def _comparable(encoder: Encoder, clean: Mapping, rows: np.ndarray, corrupt: Mapping) -> np.ndarray:
    """Which pairs have as many tokens, and are not the same, to a view, bool [n]."""
    if not len(rows):
        return np.zeros(0, bool)
    both = [encoder.encode(c) for c in ({k: x[rows] for k, x in clean.items()}, corrupt)]
    masks = [one.get("mask", np.ones((len(rows), 1))).sum(axis=1) for one in both]
    differ = [np.any((both[0][k] != both[1][k]).reshape(len(rows), -1), axis=1) for k in both[0]]
    return (masks[0] == masks[1]) & np.any(differ, axis=0)
