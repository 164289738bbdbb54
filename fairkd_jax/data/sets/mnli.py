"""MultiNLI (arXiv 1704.05426), and which of its matched and mismatched pairs are hard.

fairkd-data --set=mnli --source=multinli_1.0.zip --data_dir=DIR
{"name": "mnli", "data_dir": DIR, "attribute": "negation"}

SOURCE holds multinli_1.0, GLUE's MNLI, or parquet of the hub. A pair is hard where a classifier
that sees the hypothesis alone is wrong (arXiv 1803.02324): the lists of arXiv 1909.06321, folders
`MNLIMatchedHardWithHardTest` and `MNLIMismatchedHardWithHardTest`, are found beside the archive.
They hold texts with other spaces, so letters and digits are compared. The attribute "negation" is
that of arXiv 1911.08731.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from fairkd_jax.data import pairs
from fairkd_jax.data.archives import Missing, Source
from fairkd_jax.data.dataset import DataSet, Info
from fairkd_jax.data.pairs import Layout, PreparedPairs
from fairkd_jax.data.prepared import Example, Original, Prepared
from fairkd_jax.data.rows import read_lines

PARTS = {  # ours -> as the authors, GLUE and the hub call it, and the list of what is hard
    "train": ("train", "train", "train", ""),
    "matched": (
        "dev_matched",
        "dev_matched",
        "validation_matched",
        "MNLIMatchedHardWithHardTest",
    ),
    "mismatched": (
        "dev_mismatched",
        "dev_mismatched",
        "validation_mismatched",
        "MNLIMismatchedHardWithHardTest",
    ),
}


def _features(tfds: Any) -> dict[str, Any]:
    hard = tfds.ClassLabel(names=("easy", "hard"))
    return pairs.features(tfds, genre=tfds.Text(), hard=hard)


def _read(source: Source, split: str) -> Iterator[tuple[str, Example]]:
    part, glue, hub, listed = PARTS[split]
    more = {"key": "pairID", "more": {"genre": "genre"}}
    layouts = (
        Layout(
            (f"multinli_1.0_{part}.jsonl", f"multinli_1.0_{part}.txt"), **pairs.OF_STANFORD, **more
        ),
        Layout((f"MNLI/{glue}.tsv", f"{glue}.tsv"), **pairs.OF_STANFORD, **more),
        Layout((f"mnli/{hub}-*.parquet",)),
        Layout((f"{hub}-*.parquet", f"{hub}.parquet"), **more),
        Layout((f"{hub}.jsonl",)),
    )
    hard = _hard(source, listed) if listed else None
    for place, pair in pairs.read(source, layouts):
        known = hard is not None and pair["label"] != -1
        told = ("hard" if _letters(pair) in hard else "easy") if known else -1
        yield place, {"genre": "", **pair, "hard": told}


def _hard(source: Source, listed: str) -> set[str] | None:
    """The pairs of a list by their letters; None where there is no list."""
    try:
        texts = [read_lines(source.file(f"{listed}/{name}")) for name in ("s1.test", "s2.test")]
    except Missing:
        return None
    both = zip(*texts, strict=True)
    return {_letters({"premise": one, "hypothesis": two}) for (_, one), (_, two) in both}


def _letters(pair: Example) -> str:
    """What is the same however words are set apart."""
    return "|".join(
        "".join(filter(str.isalnum, pair[k].lower())) for k in ("premise", "hypothesis")
    )


@dataclasses.dataclass(frozen=True)
class Mnli(PreparedPairs, Prepared, DataSet):
    """Three labels; pairs on which the annotators did not agree are left out.

    matched, mismatched   of the genres of train, and of others; genres and hard pairs are scored by
                          themselves
    """

    attribute: str = "negation"

    splits = ("train", "matched", "mismatched")
    scored: ClassVar[tuple[str, ...]] = ("genre", "hard")
    original: ClassVar[Original] = Original(
        name="mnli",
        version="1.0.0",
        features=_features,
        splits={
            "train": ("train",),
            "matched": ("validation_matched", "validation"),
            "mismatched": ("validation_mismatched",),
        },
        read=_read,
        key="pair_id",
        citation="arXiv:1704.05426",
        published={  # of pairs with a label: 392,702, 9,815 and 9,832, as in TFDS's catalogue
            "train": {
                "label=entailment": 130_899,
                "label=neutral": 130_900,
                "label=contradiction": 130_903,
            },
            "matched": {
                "label=entailment": 3_479,
                "label=neutral": 3_123,
                "label=contradiction": 3_213,
            },
            "mismatched": {
                "label=entailment": 3_463,
                "label=neutral": 3_129,
                "label=contradiction": 3_240,
            },
        },
        elsewhere=("glue/mnli", "multi_nli"),
    )

    @property
    def info(self) -> Info:
        licence = "OANC; the fiction under several free licences, see arXiv 1704.05426"
        return pairs.info(self.attribute, licence, "MultiNLI 1.0, arXiv 1704.05426")
