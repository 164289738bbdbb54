"""Knobs of strength: how large a training split is, how correlated, how noisy, by choosing from it.

What is chosen hangs on (seed, example id) alone, and is nested: 25 % of a split lie inside 50 %,
and the labels that are wrong at a noise of .1 are wrong at .2, in the same way. Sizes are exact to
rounding, by group, so they are the same for all seeds (but for what noise moves between groups).

Labels are flipped first. Then of each group (label, attribute) as many examples are kept as the
knobs say: fractions and correlations are those of the labels as they are trained on.

  label_noise   the share of the examples of each label that carry another, any other alike
  fraction      the share of the whole split that is kept, of every group alike
  group_floor   of a group of which less would be kept, this many are, or all where it has no more:
                else a small share of a training set takes its rarest groups away, and a worst group
                or a method that needs groups (arXiv 1911.08731, 2110.14503) has nothing to look at
  correlation   the share of the examples of each label whose shortcut gives the right answer
                (`Info.aligned`); labels keep their shares of the split. At a fraction of 1 as many
                are kept as can be, at a smaller one that share of the whole split, so that sizes
                can be the same along an axis of correlations. It chooses among what is there: a set
                that plants a correlation has an option of its own for that, `data.set.correlation`
"""

import dataclasses
import functools
import math

import numpy as np
from jaxtyping import Bool, Float, Int

from fairkd_jax.config import Data
from fairkd_jax.data.dataset import Column, Info, Split
from fairkd_jax.data.source import Source
from fairkd_jax.types import Batch

SPLIT = "train"  # the one that is thinned; no other ever is
NOISE, OTHER, ORDER = range(3)  # what is drawn of an example


@dataclasses.dataclass(frozen=True)
class Strength:
    """The knobs of a data config."""

    fraction: float = 1.0
    group_floor: int = 0
    correlation: float | None = None
    label_noise: float = 0.0
    seed: int = 0

    @property
    def thins(self) -> bool:
        """Are examples left out?"""
        return self.fraction < 1 or self.correlation is not None

    def __str__(self) -> str:
        """What is changed: "fraction 0.25, label_noise 0.1"."""
        said = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)[:-1]}
        plain = vars(Strength())
        return ", ".join(f"{k} {v:g}" for k, v in said.items() if v != plain[k])


def of(data: Data) -> Strength | None:
    """The knobs of a config; None where they leave the split as it is.

    Raises ValueError for a value that none can have.
    """
    seed = data.strength_seed
    found = Strength(data.fraction, data.group_floor, data.correlation, data.label_noise, seed or 0)
    for name, value, right, expected in (
        ("fraction", found.fraction, 0 < found.fraction <= 1, "a share above 0, up to 1"),
        ("group_floor", found.group_floor, found.group_floor >= 0, "a number of examples"),
        ("correlation", found.correlation, _is_share(found.correlation), "a share, or None"),
        ("label_noise", found.label_noise, 0 <= found.label_noise < 1, "a share below 1"),
        ("strength_seed", seed, (seed or 0) >= 0, "a number from 0 up, or None: the run's"),
    ):
        if not right:
            raise ValueError(f"data.{name} = {value!r}: expected {expected}")
    return found if found.thins or found.label_noise else None


def _is_share(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (number and 0 <= value <= 1)


def settled(data: Data, seed: int) -> Data:
    """The same with the seed of the run said, where something is drawn by it; what has no effect
    is at its default.

    Raises as `of`, and ValueError for knobs where another split than "train" is trained on.
    """
    strength, idle = of(data), {"group_floor": 0, "strength_seed": None}
    if strength is None:
        return dataclasses.replace(data, **idle)
    if data.split != SPLIT:
        raise ValueError(
            f"data.split = {data.split!r}, but {strength} would act on the split {SPLIT!r} alone: "
            f"train on that, or leave these out"
        )
    seed = seed if data.strength_seed is None else data.strength_seed
    floor = strength.group_floor if strength.thins else 0
    share = None if data.correlation is None else float(data.correlation)  # 1 is 1.0
    return dataclasses.replace(data, group_floor=floor, correlation=share, strength_seed=seed)


def chosen(split: Split, strength: Strength) -> tuple[Int[np.ndarray, "n"], Split]:
    """The rows of a split that are kept, ascending, and the split of them, as it is trained on.

    Raises ValueError, with what there is, for a strength that cannot be had of these examples.
    """
    info, identity = split.info, split.columns["id"]
    label = _noisy(split.columns["label"], identity, len(info.label_names), strength)
    attribute = split.columns["attribute"]
    group = label * len(info.attribute_names) + attribute
    counts = np.bincount(group, minlength=len(info.group_names))
    wanted = _wanted(counts.reshape(np.shape(info.aligned)), info, strength).ravel()
    order = _in_order(strength.seed, ORDER, identity)
    kept = [order[group[order] == g][:size] for g, size in enumerate(wanted)]
    rows = np.sort(np.concatenate(kept))
    columns = {
        k: v[rows] if k in ("attribute", "id", "member") else Chosen(v, rows)
        for k, v in split.columns.items()
    }
    columns |= {"label": label[rows], "group": group[rows]}
    return rows, dataclasses.replace(split, columns=columns)


@functools.lru_cache(maxsize=16)
def part(whole: Source, strength: Strength) -> Source:
    """What is kept of a source. Raises as `chosen`."""
    return Part(whole, *chosen(whole.split, strength))


class Part(Source):
    """Some rows of a source, with the labels that a split has of them: what it encoded serves."""

    def __init__(self, whole: Source, rows: Int[np.ndarray, "n"], split: Split):
        self.split, self._whole, self._rows = split, whole, rows
        self.augment, self.require = whole.augment, whole.require

    def batch(self, rows: np.ndarray) -> Batch:
        columns = {k: self.split.columns[k][rows] for k in ("label", "attribute", "group", "id")}
        return self._whole.batch(self._rows[rows]) | columns


class Chosen(Column):
    """Rows of a raw column, read from it when they are asked for."""

    def __init__(self, whole: np.ndarray | Column, rows: Int[np.ndarray, "n"]):
        self._whole, self._rows = whole, rows
        self.dtype, self.shape = whole.dtype, (len(rows), *whole.shape[1:])

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self._whole[self._rows[rows]]


def _noisy(
    label: Int[np.ndarray, "N"], identity: Int[np.ndarray, "N"], labels: int, strength: Strength
) -> Int[np.ndarray, "N"]:
    """The labels, a share of each moved on by one to C - 1 places."""
    if not strength.label_noise:
        return label
    order = _in_order(strength.seed, NOISE, identity)
    sizes = _round(strength.label_noise * np.bincount(label, minlength=labels))
    wrong = np.concatenate([order[label[order] == y][:size] for y, size in enumerate(sizes)])
    steps = 1 + np.floor(_uniform(strength.seed, OTHER, identity[wrong]) * (labels - 1))
    found = label.copy()
    found[wrong] = (label[wrong] + steps.astype(label.dtype)) % labels
    return found


def _wanted(
    counts: Int[np.ndarray, "C A"], info: Info, strength: Strength
) -> Int[np.ndarray, "C A"]:
    """How many examples of each group are kept. Raises ValueError where these cannot be."""
    if not strength.thins:
        return counts
    if strength.correlation is None:
        wanted = _round(strength.fraction * counts)
        wanted = np.maximum(wanted, np.minimum(counts, strength.group_floor))
    else:
        wanted = _correlated(counts, np.array(info.aligned, bool), info, strength)
    lost = (wanted.sum(axis=1) == 0) & (counts.sum(axis=1) > 0)
    if lost.any():
        name = info.label_names[int(lost.argmax())]
        size = int(counts.sum(axis=1)[lost.argmax()])
        raise ValueError(f"data: {strength} leaves none of {size} examples of label {name!r}")
    return wanted


def _correlated(
    counts: Int[np.ndarray, "C A"], aligned: Bool[np.ndarray, "C A"], info: Info, strength: Strength
) -> Int[np.ndarray, "C A"]:
    share, place = strength.correlation, f"data.correlation = {strength.correlation:g}"
    sides = np.stack([(counts * aligned).sum(axis=1), (counts * ~aligned).sum(axis=1)], axis=1)
    shares = np.array([share, 1 - share])
    there = sides.sum(axis=1) > 0
    told = "; ".join(f"{n}: {a} and {b}" for n, (a, b) in zip(info.label_names, sides.tolist()))
    told = f"Examples whose shortcut is right and wrong, by label: {told}"
    lacking = there[:, None] & (sides == 0) & (shares > 0)
    if lacking.any():
        label, side = np.argwhere(lacking)[0]
        raise ValueError(
            f"{place}: no example of label {info.label_names[label]!r} has a shortcut that is "
            f"{('right', 'wrong')[side]}, so only a share of {side} can be had of it. {told}"
        )
    sizes = sides.sum(axis=1, keepdims=True)
    # the share of the whole split at which all that some side of some label has is kept
    most = float((sides[there] / np.maximum(sizes[there] * shares, 1e-12)).min())
    fraction = min(most, 1.0) if strength.fraction == 1 else strength.fraction
    kept = fraction * sizes[there] * shares
    if fraction > most * (1 + 1e-9) or (kept[:, shares > 0] < 1 - 1e-9).any():
        low, high = _reachable(sides[there], sizes[there], strength.fraction)
        reached = f"shares from {low:.3g} to {high:.3g}" if low <= high else "no share"
        raise ValueError(
            f"{place}, data.fraction = {strength.fraction:g}: at this fraction subsampling reaches "
            f"{reached}, and at this share fractions up to {most:.3g}. {told}"
        )
    side = np.where(aligned, 0, 1)  # of each group
    of_side = counts / np.maximum(np.take_along_axis(sides, side, axis=1), 1)
    wanted = np.minimum(_round(fraction * sizes * shares[side] * of_side), counts)
    below = wanted < np.minimum(counts, strength.group_floor)
    if below.any():
        label, attribute = np.argwhere(below)[0]
        raise ValueError(
            f"{place} keeps {wanted[label, attribute]} of {counts[label, attribute]} examples of "
            f"{info.label_names[label]}, {info.attribute_names[attribute]}: data.group_floor = "
            f"{strength.group_floor} asks for more, and with them the share would be another"
        )
    return wanted


def _reachable(
    sides: Int[np.ndarray, "C 2"], sizes: Int[np.ndarray, "C 1"], fraction: float
) -> tuple[float, float]:
    """The least and the greatest share, if one example is to stay on each side of each label."""
    if fraction == 1:  # as many as can be: the side that is not thinned stays whole
        right, wrong = (float((sides / sizes).min(axis=0)[i]) * int(sizes.min()) for i in (0, 1))
        return 1 / (1 + wrong), right / (1 + right)
    one = 1 / (fraction * int(sizes.min()))
    right, wrong = (sides / (fraction * sizes)).min(axis=0).tolist()
    return max(one, 1 - wrong), min(1 - one, right)


def _round(values: Float[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    """To whole numbers, halves up: more never becomes less."""
    return np.floor(values + 0.5).astype(np.int64)


def _in_order(seed: int, what: int, identity: Int[np.ndarray, "N"]) -> Int[np.ndarray, "N"]:
    """Row numbers, in an order drawn of the ids, however the rows lie."""
    return np.lexsort((identity, _uniform(seed, what, identity)))


def _uniform(seed: int, what: int, identity: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """A number in [0, 1) for each id, of (seed, what, id) alone.

    By the mixing function of SplitMix64 (Steele, Lea and Flood 2014) on all ids at once:
    `dataset.draws` takes 5 s for 400,000.
    """
    key = np.random.SeedSequence([seed, what]).generate_state(1, np.uint64)
    x = key + (identity.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) * math.ldexp(1.0, -53)
