"""Counterfactually augmented NLI (arXiv 1909.12434): pairs of SNLI, edited so that the label flips.

fairkd-data --set=cad --source=counterfactually-augmented-data --data_dir=DIR
{"name": "cad", "data_dir": DIR}

SOURCE is the authors' repository: NLI/original, NLI/revised_premise and NLI/revised_hypothesis.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from fairkd_jax.data import pairs
from fairkd_jax.data.archives import Source
from fairkd_jax.data.dataset import DataSet, Info
from fairkd_jax.data.pairs import Layout, PreparedPairs
from fairkd_jax.data.prepared import Example, Original, Prepared

REVISIONS = {"original": 1, "revised_premise": 2, "revised_hypothesis": 2}  # of a pair each


def _features(tfds: Any) -> dict[str, Any]:
    origin = tfds.ClassLabel(names=[*REVISIONS])
    return pairs.features(tfds, origin=origin, family=tfds.Text())


def _read(source: Source, split: str) -> Iterator[tuple[str, Example]]:
    part = {"train": "train", "val": "dev", "test": "test"}[split]
    for origin, times in REVISIONS.items():
        # Written by pandas: quotes quote.
        layout = Layout((f"{origin}/{part}.tsv",), **pairs.OF_STANFORD, quoted=True)
        for number, (place, pair) in enumerate(pairs.read(source, (layout,))):
            told = {"pair_id": f"{origin}-{number}", "family": str(number // times)}
            yield place, {**pair, **told, "origin": origin}


def _published(pairs_edited: int) -> dict[str, int]:
    counts = {f"origin={origin}": n * pairs_edited for origin, n in REVISIONS.items()}
    return {"examples": sum(counts.values()), **counts}


@dataclasses.dataclass(frozen=True)
class Cad(PreparedPairs, Prepared, DataSet):
    """Three labels; the original pairs and the revisions of either text are scored by themselves.

    A pair and its four revisions are one "family" of the prepared folder.
    """

    splits = ("train", "val", "test")
    scored: ClassVar[tuple[str, ...]] = ("origin",)
    original: ClassVar[Original] = Original(
        name="cad",
        version="1.0.0",
        features=_features,
        splits={"train": ("train",), "val": ("validation",), "test": ("test",)},
        read=_read,
        key="pair_id",
        citation="arXiv:1909.12434",
        published={  # section 3 there
            "train": _published(1_666),
            "val": _published(200),
            "test": _published(400),
        },
    )

    @property
    def info(self) -> Info:
        return pairs.info(self.attribute, "Apache-2.0", "Counterfactual NLI, arXiv 1909.12434")
