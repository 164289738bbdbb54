"""Adversarial NLI (arXiv 1910.14599): three rounds, each against a stronger model.

fairkd-data --set=anli --source=anli_v1.0.zip --data_dir=DIR
{"name": "anli", "data_dir": DIR, "rounds": ("r3",)}
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from fairkd_jax.data import pairs
from fairkd_jax.data.archives import Source
from fairkd_jax.data.dataset import DataSet, Info
from fairkd_jax.data.pairs import Layout, PreparedPairs
from fairkd_jax.data.prepared import Example, Original, Prepared
from fairkd_jax.registry import UnknownName

ROUNDS = ("r1", "r2", "r3")


def _features(tfds: Any) -> dict[str, Any]:
    return pairs.features(tfds, round=tfds.ClassLabel(names=ROUNDS))


def _read(source: Source, split: str) -> Iterator[tuple[str, Example]]:
    part = {"train": "train", "val": "dev", "test": "test"}[split]
    for one in ROUNDS:
        layouts = (
            Layout((f"{one.upper()}/{part}.jsonl",), premise="context", key="uid"),
            Layout((f"{part}_{one}-*.parquet", f"{part}_{one}.jsonl"), key="uid"),
        )
        for place, pair in pairs.read(source, layouts):
            yield place, {**pair, "round": one}


@dataclasses.dataclass(frozen=True)
class Anli(PreparedPairs, Prepared, DataSet):
    """Three labels; each round is scored by itself too."""

    rounds: tuple[str, ...] = ROUNDS

    splits = ("train", "val", "test")
    scored: ClassVar[tuple[str, ...]] = ("round",)
    original: ClassVar[Original] = Original(
        name="anli",
        version="1.0.0",
        features=_features,
        splits={"train": ("train",), "val": ("validation",), "test": ("test",)},
        read=_read,
        key="pair_id",
        citation="arXiv:1910.14599",
        published={  # table 2 there
            "train": {"round=r1": 16_946, "round=r2": 45_460, "round=r3": 100_459},
            "val": {"round=r1": 1_000, "round=r2": 1_000, "round=r3": 1_200},
            "test": {"round=r1": 1_000, "round=r2": 1_000, "round=r3": 1_200},
        },
    )

    def __post_init__(self):
        for one in self.rounds:
            if one not in ROUNDS:
                raise UnknownName(str(one), "round in anli.rounds:", ROUNDS)

    @property
    def info(self) -> Info:
        return pairs.info(self.attribute, "CC BY-NC 4.0", "ANLI, arXiv 1910.14599")

    def distribution(self) -> Original:
        """TFDS has a folder for each round."""
        names = tuple(f"anli/{one}" for one in self.rounds)
        return dataclasses.replace(self.original, elsewhere=names if len(names) == 1 else ())

    def keep(self) -> dict[str, tuple[str, ...]]:
        """Of the rounds that are wanted."""
        return {"round": self.rounds}
