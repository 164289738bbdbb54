"""Examples made up for tests, with all raw columns of ours; a set of them."""

import dataclasses

import numpy as np

from fairkd_jax.data.dataset import DataSet, Info, Split, make_split

PEOPLE = ("baker", "sailor", "nurse", "poet")
VERBS = ("greeted", "thanked", "warned")


def made_up(info: Info, label: np.ndarray, attribute: np.ndarray) -> Split:
    """A split of short texts and small images; the attribute is how bright an image is."""
    rng = np.random.default_rng(0)
    number = np.arange(len(label))
    shape = (len(label), 8, 8, 3)
    image = rng.integers(0, 100, shape) + 100 * attribute[:, None, None, None]
    mask = np.zeros(shape[:3], np.uint8)
    mask[:, 2:6, 3:7] = 1
    names = [(PEOPLE[i % 4], VERBS[i % 3], PEOPLE[(i + 1 + i // 4 % 3) % 4]) for i in number]
    return make_split(
        info,
        label,
        attribute,
        id=7 + 3 * number[::-1],
        image=image.astype(np.uint8),
        mask=mask,
        premise=[f"The {a} {v} the {b}." for a, v, b in names],
        hypothesis=[f"The {b} waved and the {a} {v} it." for a, v, b in names],
        text=[f"{a} {v} {b} again" for a, v, b in names],
    )


@dataclasses.dataclass(frozen=True)
class Everything(DataSet):
    """A set made up for tests; its attribute is planted."""

    rows: int = 40

    splits = ("train",)

    @property
    def info(self) -> Info:
        labels, attributes = ("entailment", "non-entailment"), ("dark", "bright")
        return Info(labels, attributes, ((True, False), (False, True)), "none", "made here")

    def load(self, split: str) -> Split:
        self.require(split)
        number = np.arange(self.rows)
        return made_up(self.info, number % 2, number // 2 % 2)

    def attribute_of(self, columns):
        if "image" not in columns:
            return np.array([len(text) % 2 for text in columns["premise"]], np.int32)
        return (columns["image"].reshape(len(columns["image"]), -1).min(axis=1) >= 100).astype(int)

    def with_attribute(self, split, attribute):
        change = 100 * (attribute - split.columns["attribute"])[:, None, None, None]
        columns = {k: v for k, v in split.columns.items() if k not in ("label", "group")}
        columns |= {"image": (split.columns["image"] + change).astype(np.uint8)}
        columns |= {"attribute": attribute}
        return make_split(split.info, split.columns["label"], **columns)
