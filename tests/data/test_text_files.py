"""Single texts from files with columns: what `nli_files` knows, for other inputs."""

import pytest

from fairkd_jax.data.sets.text_files import TextFiles
from fairkd_jax.registry import UnknownName

pytestmark = pytest.mark.quick

MAKE = {
    "label_names": ("nontoxic", "toxic"),
    "label_map": {"0": "nontoxic", "1": "toxic"},
    "attribute": "who",
    "attribute_names": ("none", "some"),
    "suggests": {"none": "nontoxic", "some": "toxic"},
}
ROWS = [("one text", "0", "none"), ("two", "1", "some"), ("three, or more", "1", "none")]


@pytest.fixture
def folder(tmp_path):
    for name, mark in (("a.csv", ","), ("a.tsv", "\t")):
        lines = [("comment", "toxic", "who"), *ROWS]
        quoted = [[f'"{c}"' if "," in c and mark == "," else c for c in row] for row in lines]
        (tmp_path / name).write_text("".join(mark.join(row) + "\n" for row in quoted))
    return tmp_path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_text_a_label_an_attribute(folder, name):
    columns = {"text": "comment", "label": "toxic", "subpopulations": {"test": "who"}}
    dataset = TextFiles(folder=str(folder), test=name, **columns, **MAKE)
    assert dataset.splits == ("test",)
    split = dataset.load("test")
    assert split.columns["text"].tolist() == [row[0] for row in ROWS]
    assert split.columns["group"].tolist() == [0, 3, 2]
    assert split.columns["id"].tolist() == [2, 3, 4]
    assert split.info.subpopulations == ("who=none", "who=some")
    assert dataset.info.aligned == ((True, False), (False, True))
    with pytest.raises(UnknownName, match=r"column of .*a\..sv: 'text'"):
        TextFiles(folder=str(folder), test=name, label="toxic", **MAKE).load("test")


def test_what_is_wrong_names_the_set_and_the_option(folder):
    make = {"folder": str(folder), "test": "a.csv", "text": "comment", "label": "toxic", **MAKE}
    for change, told in (
        ({"label_names": ()}, "text_files: label_names is empty"),
        ({"attribute": ""}, "text_files: attribute = '': name a column"),
        ({"text": "toxic"}, "text_files: text = 'toxic', as label is: name a column"),
        ({"attribute": "overlap", "attribute_names": ()}, "computed attributes are none of a set"),
        ({"suggests": {"none": "clean"}}, r"label in text_files\.suggests\.none: 'clean'"),
        ({"test": "b.csv"}, r"text_files: test = .*b\.csv not found.*a\.csv, a\.tsv"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=told):
            TextFiles(**{**make, **change})
    with pytest.raises(UnknownName, match=r"who in .*a\.csv, line 3: 'some'\."):
        TextFiles(**{**make, "attribute_names": ("none", "others"),
                     "suggests": {"none": "nontoxic", "others": "toxic"}}).load("test")  # fmt: skip
