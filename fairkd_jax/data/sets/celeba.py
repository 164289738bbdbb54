"""Faces of celebrities with 40 attributes (CelebA, arXiv 1411.7766).

fairkd-data --set=celeba --source=FOLDER --data_dir=DIR
{"name": "celeba", "data_dir": DIR, "target": "Blond_Hair", "attribute": "Male", "size": 224}

FOLDER holds img_align_celeba.zip, or the folder unpacked from it, and list_attr_celeba and
list_eval_partition, .txt as its authors distribute them or .csv as Kaggle and WILDS do; or the
hub's Parquet files of one image and 40 truth values a row.
"""

import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from fairkd_jax.data import pictures
from fairkd_jax.data.archives import AnyPath, Source, content
from fairkd_jax.data.dataset import DataSet, Info, Split, make_split
from fairkd_jax.data.prepared import Example, Original, Prepared
from fairkd_jax.data.rows import read_rows
from fairkd_jax.registry import UnknownName

PARTITIONS = {"train": "0", "val": "1", "test": "2"}  # in list_eval_partition
# In the order of list_attr_celeba.
# fmt: off
ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs",
    "Big_Lips", "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows",
    "Chubby", "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup",
    "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard",
    "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns",
    "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat",
    "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)
# fmt: on
TRUTH = {"-1": False, "1": True}


def _features(tfds: Any) -> dict[str, Any]:
    return {
        "image": tfds.Image(),
        "file": tfds.Text(),
        "attributes": {name: tfds.Scalar(np.bool_) for name in ATTRIBUTES},
    }


def _read(source: Source, split: str) -> Iterator[tuple[str, Example]]:
    hub = source.files(f"{'valid' if split == 'val' else split}*.parquet")
    if hub:
        for path in hub.values():
            yield from _parquet(path)
        return
    attributes = source.file("list_attr_celeba.txt", "list_attr_celeba.csv")
    partition = source.file("list_eval_partition.txt", "list_eval_partition.csv")
    images = source.files("img_align_celeba/*.jpg")
    part = {row["image_id"]: row for _, row in _rows(partition, ("partition",))}
    last, seen = "", set()
    for line, row in _rows(attributes, ATTRIBUTES):
        place, name = f"{attributes}, line {line}", row["image_id"]
        last = place
        if name not in part:
            raise ValueError(f"{place}: {name} has no row in {partition}")
        number = part[name]["partition"]
        seen.add(name)
        if number not in PARTITIONS.values():
            raise UnknownName(number, f"partition of {name} in {partition}:", PARTITIONS.values())
        if number != PARTITIONS[split]:
            continue
        wrong = next((k for k in ATTRIBUTES if row[k] not in TRUTH), None)
        if wrong:
            raise UnknownName(row[wrong], f"{wrong} in {place}:", TRUTH)
        if name not in images:
            raise ValueError(f"{place}: there is no image {name} below {source.path}")
        values = {k: TRUTH[row[k]] for k in ATTRIBUTES}
        data = content(images[name], place)
        yield place, {"image": io.BytesIO(data), "file": name, "attributes": values}
    if missing := part.keys() - seen:
        raise ValueError(
            f"{last}, is the last: {len(missing)} images of {partition} have no attributes, "
            f"{min(missing)} is the first of them"
        )


def _rows(path: AnyPath, names: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """(line, {"image_id": ..., column: ...}) of a list, as text or .csv."""
    if path.name.endswith(".csv"):
        yield from read_rows(path, (), ("image_id", *names))
        return
    lines = content(path).decode().splitlines()
    header, told = names, None
    start = 0
    if lines and len(lines[0].split()) == 1:  # how many, and what the columns are called
        told, header, start = int(lines[0]), tuple(lines[1].split()), 2
        if missing := [name for name in names if name not in header]:
            raise UnknownName(missing[0], f"column of {path}, line 2:", header)
    for number, line in enumerate(lines[start:], start + 1):
        name, *values = line.split()
        if len(values) != len(header):
            raise ValueError(f"{path}, line {number}: {len(values)} values, not {len(header)}")
        yield number, {"image_id": name, **dict(zip(header, values))}
    if told is not None and told != len(lines) - start:
        raise ValueError(
            f"{path}, line 1 says that {told} rows follow; line {len(lines)}, the last, is row "
            f"{len(lines) - start}"
        )


def _parquet(path: AnyPath) -> Iterator[tuple[str, Example]]:
    """Rows of "image" (its bytes) and a truth value for each attribute."""
    import pyarrow.parquet

    with path.open("rb") as file:
        table = pyarrow.parquet.ParquetFile(file)
        if missing := {"image", *ATTRIBUTES} - set(table.schema_arrow.names):
            raise UnknownName(min(missing), f"column of {path}:", table.schema_arrow.names)
        number = 0
        for batch in table.iter_batches(1024, columns=["image", *ATTRIBUTES]):
            for row in batch.to_pylist():
                number += 1
                values = {k: bool(row[k]) for k in ATTRIBUTES}
                data, name = row["image"]["bytes"], f"{path.name}, row {number}"
                yield (
                    f"{path}, row {number}",
                    {"image": io.BytesIO(data), "file": name, "attributes": values},
                )


def _published(examples: int, *groups: int) -> dict[str, int]:
    """Counts of a split, and of Blond_Hair and Male within it."""
    named = [
        f"attributes/Blond_Hair={blond}, attributes/Male={male}"
        for blond in (False, True)
        for male in (False, True)
    ]
    return {"examples": examples, **dict(zip(named, groups))}


@dataclasses.dataclass(frozen=True)
class Celeba(Prepared, DataSet):
    """Has a face one attribute, where another is the shortcut? By default hair colour by sex.

    Images are cut to the square in their middle and resized (`pictures.FRAMES` has other ways), as
    in arXiv 1911.08731, whose groups these are.
    """

    target: str = "Blond_Hair"
    attribute: str = "Male"
    suggests: bool = False  # whether the attribute suggests the target, or that it is not there
    size: int = 224
    frame: str = "square"

    splits = ("train", "val", "test")
    original: ClassVar[Original] = Original(
        name="celeba",
        version="1.0.0",
        features=_features,
        splits={"train": ("train",), "val": ("validation",), "test": ("test",)},
        read=_read,
        key="file",
        citation="arXiv:1411.7766",
        published={
            "train": _published(162_770, 71_629, 66_874, 22_880, 1_387),
            "val": _published(19_867, 8_535, 8_276, 2_874, 182),
            "test": _published(19_962, 9_767, 7_535, 2_480, 180),
        },
        elsewhere=("celeb_a",),
    )

    def __post_init__(self):
        for option in ("target", "attribute"):
            if getattr(self, option) not in ATTRIBUTES:
                raise UnknownName(getattr(self, option), f"{option} of celeba:", ATTRIBUTES)
        if self.target == self.attribute:
            raise ValueError(f"celeba: target and attribute are both {self.target}")
        pictures.check("celeba", self.size, self.frame)

    @property
    def info(self) -> Info:
        says = self.suggests
        return Info(
            label_names=(f"not {self.target}", self.target),
            attribute_names=(f"not {self.attribute}", self.attribute),
            aligned=((says, not says), (not says, says)),
            licence="non-commercial research only",
            source="CelebA, arXiv 1411.7766",
        )

    def load(self, split: str) -> Split:
        records = self.records(split)
        target, attribute = (f"attributes/{n}" for n in (self.target, self.attribute))
        read = records.columns(target, attribute)
        image = pictures.of_records(records, self.size, self.frame)
        return make_split(self.info, read[target], read[attribute], image=image)
