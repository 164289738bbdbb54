"""HANS (arXiv 1902.01007): pairs on which heuristics of overlap are right, and wrong.

fairkd-data --set=hans --source=hans --data_dir=DIR
{"name": "hans", "data_dir": DIR}

SOURCE is the authors' repository, or a folder with heuristics_evaluation_set.txt (or .jsonl) and,
for the split train, heuristics_train_set.txt; `--part` prepares what is there.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from fairkd_jax.data import pairs
from fairkd_jax.data.archives import Source
from fairkd_jax.data.dataset import DataSet, Info
from fairkd_jax.data.pairs import Layout, PreparedPairs
from fairkd_jax.data.prepared import Example, Original, Prepared

LABELS = ("entailment", "non-entailment")
HEURISTICS = ("lexical_overlap", "subsequence", "constituent")
TOLD = ("heuristic", "subcase", "template")
PUBLISHED = {
    "examples": 30_000,
    **{f"label={y}": 15_000 for y in LABELS},
    **{f"heuristic={h}, label={y}": 5_000 for h in HEURISTICS for y in LABELS},
}


def _features(tfds: Any) -> dict[str, Any]:
    texts = {name: tfds.Text() for name in ("subcase", "template")}
    return pairs.features(tfds, LABELS, heuristic=tfds.ClassLabel(names=HEURISTICS), **texts)


def _read(source: Source, split: str) -> Iterator[tuple[str, Example]]:
    part = {"train": "heuristics_train_set", "test": "heuristics_evaluation_set"}[split]
    hub = {"train": "train", "test": "validation"}[split]
    more = {name: name for name in TOLD}
    layouts = (
        Layout((f"{part}.jsonl", f"{part}.txt"), **pairs.OF_STANFORD, key="pairID", more=more),
        Layout((f"{hub}-*.parquet",), more=more),
    )
    yield from pairs.read(source, layouts, {str(i): name for i, name in enumerate(LABELS)})


@dataclasses.dataclass(frozen=True)
class Hans(PreparedPairs, Prepared, DataSet):
    """Two labels; the attribute is the heuristic, which always suggests entailment, or overlap.

    Subcases and templates are scored by themselves; neutral and contradiction of a net count as
    non-entailment.
    """

    attribute: str = "heuristic"

    splits = ("train", "test")
    scored: ClassVar[tuple[str, ...]] = ("subcase", "template")
    original: ClassVar[Original] = Original(
        name="hans",
        version="1.0.0",
        features=_features,
        splits={"train": ("train",), "test": ("test",)},
        read=_read,
        key="pair_id",
        citation="arXiv:1902.01007",
        published={"train": PUBLISHED, "test": PUBLISHED},  # section 4 there
    )

    @property
    def info(self) -> Info:
        return pairs.info(
            self.attribute,
            "MIT",
            "HANS, arXiv 1902.01007",
            LABELS,
            {"heuristic": {name: ("entailment",) for name in HEURISTICS}},
            collapses={"non-entailment": ("neutral", "contradiction")},
        )
