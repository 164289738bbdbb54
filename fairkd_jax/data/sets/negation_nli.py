"""Negation benchmarks for NLI (Hossain et al. 2020): pairs of MNLI and SNLI, "not" added to them.

fairkd-data --set=negation_nli --source=negation-and-nli --data_dir=DIR
{"name": "negation_nli", "data_dir": DIR}

SOURCE is the authors' repository: clean_data/MNLI.txt and SNLI.txt. Its pairs of RTE have two
labels, and are left out.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from fairkd_jax.data import pairs
from fairkd_jax.data.archives import Source
from fairkd_jax.data.dataset import DataSet, Info
from fairkd_jax.data.pairs import Layout, PreparedPairs
from fairkd_jax.data.prepared import Example, Original, Prepared

SOURCES = ("mnli", "snli")


def _features(tfds: Any) -> dict[str, Any]:
    return pairs.features(tfds, source=tfds.ClassLabel(names=SOURCES))


def _read(source: Source, split: str) -> Iterator[tuple[str, Example]]:
    for name in SOURCES:
        layout = Layout(
            (f"clean_data/{name.upper()}.txt", f"{name.upper()}.txt"),
            premise="Text",
            hypothesis="Hypothesis",
            label="gold_label",
            key="index",
            encodings=("UTF-8", "Windows-1252"),  # a few lines of MNLI.txt
        )
        for place, pair in pairs.read(source, (layout,)):
            yield place, {**pair, "pair_id": f"{name}-{pair['pair_id']}", "source": name}


@dataclasses.dataclass(frozen=True)
class NegationNli(PreparedPairs, Prepared, DataSet):
    """Three labels, one split; pairs of MNLI and of SNLI are scored by themselves.

    The attribute "negation" does not know "not": see `shortcuts.py`.
    """

    splits = ("test",)
    scored: ClassVar[tuple[str, ...]] = ("source",)
    original: ClassVar[Original] = Original(
        name="negation_nli",
        version="1.0.0",
        features=_features,
        splits={"test": ("test",)},
        read=_read,
        key="pair_id",
        citation="Hossain et al. 2020, doi:10.18653/v1/2020.emnlp-main.732",
        published={"test": {"source=mnli": 1_500, "source=snli": 1_500}},  # section 4 there
    )

    @property
    def info(self) -> Info:
        source = "Hossain et al. 2020, doi:10.18653/v1/2020.emnlp-main.732"
        return pairs.info(self.attribute, "MIT", source)
