"""Labelled pairs from a file, such as counterfactual edits of training pairs (arXiv 1909.12434).

Read as `nli_files` reads them: .tsv, .txt, .csv or .jsonl, each also as .gz.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fairkd_jax.data.augmentation import Augmentation, extra
from fairkd_jax.data.dataset import DataSet, Split
from fairkd_jax.data.sets.nli_files import NliFiles
from fairkd_jax.types import Path


@dataclasses.dataclass(frozen=True)
class CounterfactualPairs(Augmentation):
    """Labels are those of the set, by name; the attribute is by the set's own rule, if it has one.

    Raises what `nli_files` raises for a file that is not as said.
    """

    needs = ("premise", "hypothesis")
    places = ("folder", "file")

    folder: str = ""
    file: str = ""  # relative to the folder
    premise: str = "premise"  # names of columns
    hypothesis: str = "hypothesis"
    label: str = "label"
    label_map: Mapping[Any, str] = dataclasses.field(default_factory=dict)  # as in nli_files
    skip_labels: tuple[Any, ...] = ()
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # {column: value or values}: keeps rows with one of these values

    def __post_init__(self):
        super().__post_init__()
        if not (self.folder and self.file):
            raise ValueError(
                f"counterfactual_pairs: folder = {self.folder!r}, file = {self.file!r}: name the "
                "file that holds the pairs, and its folder"
            )

    def reads(self) -> Mapping[str, Path]:
        files = NliFiles(folder=self.folder, train=self.file).reads("train")
        return {"pairs": next(iter(files.values()))}

    def examples(self, train: Split, dataset: DataSet) -> Split:
        names = train.info.label_names
        pairs = NliFiles(
            folder=self.folder,
            train=self.file,
            premise=self.premise,
            hypothesis=self.hypothesis,
            label=self.label,
            label_names=names,
            label_map=self.label_map,
            skip_labels=self.skip_labels,
            suggests={"overlap": names, "no_overlap": names},  # what is not asked for here
            where={"train": self.where} if self.where else {},
        ).load("train")
        raw = {name: pairs.columns[name] for name in self.needs}
        attribute = dataset.attribute_of(raw)
        return extra(train, label=pairs.columns["label"], attribute=attribute, **raw)
