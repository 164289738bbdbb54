"""Shortcuts that are planted in images: a colour, a patch or a corruption that predicts the label.

After Colored MNIST (arXiv 1907.02893) and corrupted CIFAR-10 (arXiv 2007.02561). Class c is at home
in value c. In training a stated share of each class shows its own value; in validation and test
each value is as frequent in every class, so it says nothing.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Float, UInt8

from fairkd_jax import registry
from fairkd_jax.data import corruptions, pictures
from fairkd_jax.data.dataset import Info, Split, make_split
from fairkd_jax.data.prepared import Records
from fairkd_jax.registry import UnknownName

COLOURS = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "magenta": (1, 0, 1),
    "cyan": (0, 1, 1),
    "white": (1, 1, 1),
    "orange": (1, 0.5, 0),
    "violet": (0.5, 0, 1),
    "lime": (0.5, 1, 0),
}
PALETTE = np.array([*COLOURS.values()])
Images = UInt8[np.ndarray, "n Y X K"]
PARTS = ("train", "test")  # official splits
ORDER, PIXELS = 0, 1  # what is drawn, beside what each split draws: "corrupted" is test
DRAWN = {"train": 2, "val": 3, "test": 4, "corrupted": 4}


@dataclasses.dataclass(frozen=True)
class Planted(abc.ABC):
    """What prepared sets share that plant a shortcut: what they plant, and how strongly.

    train      nine of ten official training images; in a share `correlation` of each class the
               value planted is that of the class
    val        the others; each value as often as another
    test       the official test images; each value as often as another
    corrupted  those in each of `kinds` and `severities`, its subpopulations

    A set that mixes this in says what its classes are called, and which class an image is of.
    """

    plant: str = "colour"  # of `PLANTS`
    strength: float = 1.0  # plainly to be seen; a corruption's severity is five times this
    correlation: float = 0.95  # share of each class in training that shows its own value
    label_noise: float = 0.0  # share of each class in train and val that is called another
    kinds: tuple[str, ...] = tuple(corruptions.KINDS)
    severities: tuple[int, ...] = corruptions.SEVERITIES
    val: float = 0.1  # share of the official training images
    size: int = 28
    seed: int = 0  # of the data, not of training

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test", "corrupted")
    licence: ClassVar[str] = "not stated by its authors"

    @abc.abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """The labels, in order."""

    @abc.abstractmethod
    def label_of(self, records: Records) -> np.ndarray:
        """Their numbers, of all examples of an official split."""

    def __post_init__(self):
        """Raises ValueError or UnknownName, naming the set and the option, for what cannot be."""
        name, classes = registry.name_of(type(self)), len(self.class_names())
        if self.plant not in PLANTS:
            raise UnknownName(self.plant, f"plant of {name}:", PLANTS)
        for option in ("correlation", "label_noise"):
            if not 0 <= getattr(self, option) <= 1:
                raise ValueError(f"{name}: {option} = {getattr(self, option)}, expected 0 to 1")
        if not 0 < self.strength <= 1:
            raise ValueError(f"{name}: strength = {self.strength}, expected above 0, up to 1")
        if not 0 < self.val < 1:
            raise ValueError(f"{name}: val = {self.val}, expected a share between 0 and 1")
        for kind in self.kinds:
            if kind not in corruptions.KINDS:
                raise UnknownName(kind, f"kinds of {name}:", corruptions.KINDS)
        if len(set(self.kinds)) < len(self.kinds) or not self.kinds:
            raise ValueError(f"{name}: kinds = {self.kinds}: expected some, each once")
        if not self.severities or not set(self.severities) <= set(corruptions.SEVERITIES):
            raise ValueError(f"{name}: severities = {self.severities}, expected of 1 to 5")
        if len(self.values()) < classes:
            raise ValueError(
                f"{name}: {classes} classes need as many values of {self.plant}; there are "
                f"{len(self.values())}: {', '.join(self.values())}"
            )

    def values(self) -> tuple[str, ...]:
        """Names of what can be planted."""
        return tuple(self.kinds) if self.plant == "corruption" else tuple(COLOURS)

    @property
    def info(self) -> Info:
        """As many values as labels, each at home in one."""
        labels = self.class_names()
        return Info(
            label_names=labels,
            attribute_names=self.values()[: len(labels)],
            aligned=tuple(tuple(row) for row in np.eye(len(labels), dtype=bool).tolist()),
            licence=self.licence,
            source=self.original.citation,
        )

    def part_of(self, split: str) -> str:
        return "train" if split in ("train", "val") else "test"

    def load(self, split: str) -> Split:
        records, info = self.records(split), self.info
        label, classes, rng = self.label_of(records), len(info.label_names), self._rng(DRAWN[split])
        order = np.argsort(self._rng(ORDER).random(len(label)), kind="stable")
        held = round(self.val * len(label))
        rows = np.sort({"train": order[held:], "val": order[:held]}.get(split, order))
        label = label[rows]
        if split in ("train", "val"):
            label = moved(label, self.label_noise, classes, rng)
        if split == "train":
            value = moved(label, 1 - self.correlation, classes, rng)
        else:
            value = spread(label, classes, rng)

        image = self._planted(records, rows, value)
        if split != "corrupted":
            part = np.full(len(rows), PARTS.index(self.part_of(split)), np.int8)
            return make_split(info, label, value, id=rows, image=image, part=part)
        each = [(kind, severity) for kind in self.kinds for severity in self.severities]
        which, how = (part.ravel() for part in np.indices((len(rows), len(each))))

        def corrupt(images: Images, chosen: np.ndarray) -> Images:
            done = [
                corruptions.corrupted(one, *each[how[row]], self._of(rows[which[row]], how[row]))
                for one, row in zip(images, chosen)
            ]
            return np.stack(done) if done else images

        info = dataclasses.replace(info, subpopulations=tuple(f"{k} {s}" for k, s in each))
        return make_split(
            info,
            label[which],
            value[which],
            id=rows[which] * len(each) + how,
            image=pictures.Changed(image, corrupt, rows=which),
            member=how[:, None] == np.arange(len(each)),
        )

    def with_attribute(self, split: Split, attribute: np.ndarray) -> Split:
        """As in the contract: planted anew in the images without it. ValueError for "corrupted"."""
        columns, rows = split.columns, split.columns["id"]
        part = {*columns.get("part", np.zeros(0, np.int8)).tolist()}
        if len(part) != 1:
            raise ValueError(
                f"{registry.name_of(type(self))}: another attribute can be planted in examples of "
                "train, val or test alone"
            )
        image = self._planted(self.records(PARTS[part.pop()]), rows, np.asarray(attribute))
        told = {"id": rows, "image": image, "part": columns["part"]}
        return make_split(split.info, columns["label"], attribute, **told)

    def _planted(self, records: Records, rows: np.ndarray, value: np.ndarray) -> pictures.Changed:
        """The images of some rows of an official split, each with a value."""

        def plant(images: Images, which: np.ndarray) -> Images:
            return PLANTS[self.plant](self, images, value[which], rows[which])

        return pictures.Changed(pictures.of_records(records, self.size, "whole", rows), plant)

    def _rng(self, purpose: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed, purpose]))

    def _of(self, row: int | np.integer, number: int | np.integer) -> np.random.Generator:
        """What is drawn for one image: of it and the seed alone."""
        counter = [0, 1 + int(number), int(row), 0]
        return np.random.Generator(np.random.Philox(key=[self.seed, PIXELS], counter=counter))


def moved(values: np.ndarray, share: float, choices: int, rng: np.random.Generator) -> np.ndarray:
    """`values` with exactly that share of each value, rounded, changed to the others in turn."""
    found = values.copy()
    for value in range(choices):
        rows = np.flatnonzero(values == value)
        rows = rows[np.argsort(rng.random(len(rows)))][: round(share * len(rows))]
        found[rows] = (value + 1 + np.arange(len(rows)) % (choices - 1)) % choices
    return found


def spread(label: np.ndarray, choices: int, rng: np.random.Generator) -> np.ndarray:
    """Values that are as frequent as each other within every label."""
    found = np.zeros_like(label)
    for value in range(choices):
        rows = np.flatnonzero(label == value)
        found[rows[np.argsort(rng.random(len(rows)))]] = np.arange(len(rows)) % choices
    return found


def _colour(planted: Planted, images: Images, value: np.ndarray, rows: np.ndarray) -> Images:
    """Light of one colour: at strength 1 nothing of the others is left."""
    light: Float[np.ndarray, "n K"] = 1 - planted.strength * (1 - PALETTE[value])
    return (images * light[:, None, None, :]).round().astype(np.uint8)


def _patch(planted: Planted, images: Images, value: np.ndarray, rows: np.ndarray) -> Images:
    """A square of the colour in the upper left corner, at strength 1 a quarter of the side."""
    side = max(1, round(planted.strength * images.shape[1] / 4))
    changed = images.copy()
    changed[:, :side, :side] = (255 * PALETTE[value])[:, None, None, :].round()
    return changed


def _corruption(planted: Planted, images: Images, value: np.ndarray, rows: np.ndarray) -> Images:
    """The kind at severity 1 to 5, which is five times the strength."""
    severity = max(1, round(5 * planted.strength))
    done = [
        corruptions.corrupted(image, planted.kinds[kind], severity, planted._of(row, -1))
        for image, kind, row in zip(images, value, rows)
    ]
    return np.stack(done) if done else images


PLANTS: Mapping[str, Callable[[Planted, Images, np.ndarray, np.ndarray], Images]] = {
    "colour": _colour,
    "patch": _patch,
    "corruption": _corruption,
}
