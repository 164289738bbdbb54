"""Premise and hypothesis pairs from the user's own files: MNLI, SNLI, HANS and sets like them.

Training and validation on MNLI, and HANS as a set of its own to evaluate on:

    {"name": "nli_files", "folder": F, "train": "mnli/train.tsv.gz", "val": "mnli/dev.tsv.gz"}
    {"name": "nli_files", "folder": F, "hans": "hans/eval.tsv.gz", "attribute": "heuristic",
     "label_names": ("entailment", "non-entailment"),
     "attribute_names": ("lexical_overlap", "subsequence", "constituent"),
     "suggests": {h: ("entailment",) for h in the three heuristics},
     "subpopulations": {"hans": "subcase"}}

`configs/studies/published_nli.py` reads the files as their authors published them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from fairkd_jax.data.columns import ColumnFiles
from fairkd_jax.data.counterparts import subject_object
from fairkd_jax.data.dataset import DataSet, Flipped, Split
from fairkd_jax.data.shortcuts import SHORTCUTS, Shortcut


@dataclasses.dataclass(frozen=True)
class NliFiles(ColumnFiles, DataSet):
    """Splits of pairs from files with columns; all other options are those of `data/columns.py`.

    Raises ValueError or FileNotFoundError for a missing folder or file and for labels of which no
    attribute value says anything when it is made; for a broken row, an unknown label or attribute
    value or a text that is missing, with file and line, on loading.
    """

    hans: str = ""  # one more split
    premise: str = "premise"  # names of columns
    hypothesis: str = "hypothesis"
    attribute: str = "overlap"  # "overlap", "negation": computed; else the name of a column
    label_names: tuple[Any, ...] = ("entailment", "neutral", "contradiction")
    collapses: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {"non-entailment": ("neutral", "contradiction")}
    )

    places: ClassVar[tuple[str, ...]] = (*ColumnFiles.places, "hans")
    files: ClassVar[tuple[str, ...]] = (*ColumnFiles.files, "hans")
    inputs: ClassVar[tuple[str, ...]] = ("premise", "hypothesis")
    computed: ClassVar[Mapping[str, Shortcut]] = SHORTCUTS

    def flips(self) -> Mapping[str, Callable[[Split], Flipped]]:
        return {"subject_object": subject_object}
