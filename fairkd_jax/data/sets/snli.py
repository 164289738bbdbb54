"""SNLI (arXiv 1508.05326), and its hard test pairs (arXiv 1803.02324).

fairkd-data --set=snli --source=snli_1.0.zip --data_dir=DIR
{"name": "snli", "data_dir": DIR, "attribute": "negation"}
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from fairkd_jax.data import pairs, prepared
from fairkd_jax.data.archives import Source
from fairkd_jax.data.dataset import DataSet, Info, Split
from fairkd_jax.data.prepared import Example, Original
from fairkd_jax.data.rows import read_rows
from fairkd_jax.types import Path


def _features(tfds: Any) -> dict[str, Any]:
    return {
        "pair_id": tfds.Text(),
        "premise": tfds.Text(),
        "hypothesis": tfds.Text(),
        "label": tfds.ClassLabel(names=pairs.LABELS),
    }


def _read(source: Source, split: str) -> Iterator[tuple[str, Example]]:
    part = {"train": "train", "val": "dev", "test": "test"}[split]
    path = source.file(f"snli_1.0_{part}.jsonl", f"snli_1.0_{part}.txt")
    for line, row in read_rows(path, ("sentence1", "sentence2"), ("gold_label", "pairID")):
        yield (
            f"{path}, line {line}",
            {
                "pair_id": row["pairID"],
                "premise": row["sentence1"],
                "hypothesis": row["sentence2"],
                "label": -1 if row["gold_label"] == "-" else row["gold_label"],
            },
        )


@dataclasses.dataclass(frozen=True)
class Snli(DataSet):
    """Three labels. The attribute is computed from the texts; `-` rows are left out."""

    data_dir: str = ""
    attribute: str = "negation"

    splits = ("train", "val", "test")
    places: ClassVar[tuple[str, ...]] = ("data_dir",)
    original: ClassVar[Original] = Original(
        name="snli",
        version="3.0.0",
        features=_features,
        splits={"train": ("train",), "val": ("validation",), "test": ("test",)},
        read=_read,
        key="pair_id",
        citation="arXiv:1508.05326",
        published={
            "train": {"examples": 550_152},
            "val": {"examples": 10_000},
            "test": {"examples": 10_000},
        },
        elsewhere=("snli",),
    )

    @property
    def info(self) -> Info:
        return pairs.info(self.attribute, "CC BY-SA 4.0", "SNLI 1.0, arXiv 1508.05326")

    def reads(self, split: str) -> dict[str, Path]:
        self.require(split)
        return prepared.files_of(self.original, self.data_dir, split)

    def load(self, split: str) -> Split:
        self.require(split)
        records = prepared.open_records(self.original, self.data_dir, split)
        return pairs.split_of(records, self.info, self.attribute)
