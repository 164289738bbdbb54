"""CivilComments as WILDS has it (arXiv 2012.07421): is a comment toxic, whoever it mentions?

fairkd-data --set=civil_comments --source=civilcomments_v1.0 --data_dir=DIR
{"name": "civil_comments", "data_dir": DIR, "attribute": "identity_any"}

SOURCE holds `all_data_with_identities.csv`. TFDS's civil_comments/CivilCommentsIdentities is read
as it is: other examples, and the identities of WILDS that TFDS does not have are put together.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from fairkd_jax.data.archives import Source
from fairkd_jax.data.dataset import DataSet, Info, Split, make_split
from fairkd_jax.data.prepared import Example, Original, Prepared, Records
from fairkd_jax.data.rows import read_rows
from fairkd_jax.data.subpopulations import by_label
from fairkd_jax.registry import UnknownName

LABELS = ("nontoxic", "toxic")
IDENTITIES = (
    "male",
    "female",
    "LGBTQ",
    "christian",
    "muslim",
    "other_religions",
    "black",
    "white",
)
ATTRIBUTES = ("identity_any", *IDENTITIES)
TOGETHER = {  # an identity of WILDS -> those of TFDS that are in it
    "LGBTQ": (
        "homosexual_gay_or_lesbian",
        "bisexual",
        "other_sexual_orientation",
        "transgender",
        "other_gender",
    ),
    "other_religions": ("jewish", "hindu", "buddhist", "atheist", "other_religion"),
}


def _features(tfds: Any) -> dict[str, Any]:
    flags = {name: tfds.Scalar(np.bool_) for name in ATTRIBUTES}
    return {"id": tfds.Text(), "text": tfds.Text(), "label": tfds.ClassLabel(names=LABELS), **flags}


def _read(source: Source, split: str) -> Iterator[tuple[str, Example]]:
    path = source.file("all_data_with_identities.csv", "all_data_with_identities.csv.gz")
    numbers = ("toxicity", *ATTRIBUTES)
    for line, row in read_rows(path, ("comment_text",), ("id", "split", *numbers)):
        place = f"{path}, line {line}"
        if row["split"] not in ("train", "val", "test"):
            raise UnknownName(row["split"], f"split in {place}:", ("train", "val", "test"))
        if row["split"] == split:
            holds = {name: _share(row[name], f"{name} in {place}") >= 0.5 for name in numbers}
            label = LABELS[holds.pop("toxicity")]
            yield place, {"id": row["id"], "text": row["comment_text"], "label": label, **holds}


def _share(text: str, place: str) -> float:
    """Of annotators who said so; none did where it is blank."""
    try:
        share = float(text or 0)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"{place} = {text!r}, expected a share from 0 to 1")
    return share


@dataclasses.dataclass(frozen=True)
class CivilComments(Prepared, DataSet):
    """Toxic or not; trained in four groups, scored in sixteen that overlap.

    The attribute, of which training groups are made, is one of eight identities or "identity_any",
    any that annotators were asked about. The sixteen are WILDS': each identity, toxic or not.
    """

    attribute: str = "identity_any"

    splits = ("train", "val", "test")
    original: ClassVar[Original] = Original(
        name="civil_comments",
        version="1.0.0",
        features=_features,
        splits={"train": ("train",), "val": ("validation",), "test": ("test",)},
        read=_read,
        key="id",
        citation="arXiv:2012.07421",
        published={  # section 4.2.2 there
            "train": {"examples": 269_038},
            "val": {"examples": 45_180},
            "test": {"examples": 133_782},
        },
        elsewhere=("civil_comments/CivilCommentsIdentities",),
    )

    @property
    def info(self) -> Info:
        if self.attribute not in ATTRIBUTES:
            raise UnknownName(self.attribute, "attribute", ATTRIBUTES)
        return Info(
            LABELS,
            (f"no_{self.attribute}", self.attribute),
            ((True, False), (False, True)),
            "CC0 1.0",
            "CivilComments of WILDS, arXiv 2012.07421",
        )

    def load(self, split: str) -> Split:
        records = self.records(split)
        if records.has("label"):
            read = records.columns("text", "label", *ATTRIBUTES)
            toxic, flags = read["label"], {name: read[name] > 0 for name in ATTRIBUTES}
        else:
            read, toxic, flags = _of_tfds(records)
        names, member = by_label({name: flags[name] for name in IDENTITIES}, toxic)
        return make_split(
            dataclasses.replace(self.info, subpopulations=names),
            toxic,
            flags[self.attribute],
            member=member,
            text=read["text"],
        )


def _of_tfds(records: Records) -> tuple[dict[str, Any], np.ndarray, dict[str, np.ndarray]]:
    """Columns, labels and flags of a folder of TFDS, which has the shares of annotators."""
    parts = {name: TOGETHER.get(name, (name,)) for name in IDENTITIES}
    wanted = sorted({feature for features in parts.values() for feature in features})
    read = records.columns("text", "toxicity", *wanted)
    flags = {
        name: np.any([read[feature] >= 0.5 for feature in features], axis=0)
        for name, features in parts.items()
    }
    flags["identity_any"] = np.any([read[feature] >= 0.5 for feature in wanted], axis=0)
    return read, (read["toxicity"] >= 0.5).astype(np.int64), flags
