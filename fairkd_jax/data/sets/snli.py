"""SNLI (arXiv 1508.05326), and which of its test pairs are hard (arXiv 1803.02324).

fairkd-data --set=snli --source=snli_1.0.zip --data_dir=DIR
{"name": "snli", "data_dir": DIR, "attribute": "negation"}

A pair is hard where a classifier that sees the hypothesis alone is wrong: those are listed in
`snli_1.0_test_hard.jsonl`, put beside the archive. Without it, or from the hub's parquet, which
names no pairs, nothing is told of it.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from fairkd_jax.data import pairs
from fairkd_jax.data.archives import Missing, Source
from fairkd_jax.data.dataset import DataSet, Info
from fairkd_jax.data.pairs import Layout, PreparedPairs
from fairkd_jax.data.prepared import Example, Original, Prepared
from fairkd_jax.data.rows import read_rows


def _features(tfds: Any) -> dict[str, Any]:
    return pairs.features(tfds, hard=tfds.ClassLabel(names=("easy", "hard")))


def _read(source: Source, split: str) -> Iterator[tuple[str, Example]]:
    ours = {"train": ("train", "train"), "val": ("dev", "validation"), "test": ("test", "test")}
    part, hub = ours[split]
    files = (f"snli_1.0_{part}.jsonl", f"snli_1.0_{part}.txt")
    layouts = (
        Layout(files, **pairs.OF_STANFORD, key="pairID"),
        Layout((f"{hub}-*.parquet", f"{hub}.parquet", f"{hub}.jsonl")),
    )
    hard = _hard(source) if split == "test" else None
    for place, pair in pairs.read(source, layouts):
        told = -1 if hard is None else "hard" if pair["pair_id"] in hard else "easy"
        yield place, {**pair, "hard": told}


def _hard(source: Source) -> set[str] | None:
    """The pairs of the list; None where there is none."""
    try:
        path = source.file("snli_1.0_test_hard.jsonl")
    except Missing:
        return None
    return {row["pairID"] for _, row in read_rows(path, (), ("pairID",))}


@dataclasses.dataclass(frozen=True)
class Snli(PreparedPairs, Prepared, DataSet):
    """Three labels; pairs on which the annotators did not agree are left out."""

    attribute: str = "negation"

    splits = ("train", "val", "test")
    scored: ClassVar[tuple[str, ...]] = ("hard",)
    original: ClassVar[Original] = Original(
        name="snli",
        version="3.0.0",
        features=_features,
        splits={"train": ("train",), "val": ("validation",), "test": ("test",)},
        read=_read,
        key="pair_id",
        citation="arXiv:1508.05326",
        published={  # the counts of TFDS's catalogue, and of the corpus by label
            "train": {
                "examples": 550_152,
                "label=entailment": 183_416,
                "label=neutral": 182_764,
                "label=contradiction": 183_187,
            },
            "val": {
                "examples": 10_000,
                "label=entailment": 3_329,
                "label=neutral": 3_235,
                "label=contradiction": 3_278,
            },
            "test": {
                "examples": 10_000,
                "label=entailment": 3_368,
                "label=neutral": 3_219,
                "label=contradiction": 3_237,
            },
        },
        elsewhere=("snli",),
    )

    @property
    def info(self) -> Info:
        return pairs.info(self.attribute, "CC BY-SA 4.0", "SNLI 1.0, arXiv 1508.05326")
