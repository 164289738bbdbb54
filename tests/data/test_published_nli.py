"""The files of SNLI, MNLI and HANS as published are read, in every form they come in."""

import published_files
import pytest

from fairkd_jax.data.sets.nli_files import NliFiles

pytestmark = pytest.mark.quick

COLUMNS = {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return published_files.write(tmp_path_factory.mktemp("published"), count=42)


@pytest.mark.parametrize(
    "file",
    [
        "snli_1.0/snli_1.0_dev.txt",
        "snli_1.0/snli_1.0_dev.jsonl",
        "multinli_1.0/multinli_1.0_dev_matched.txt",
        "multinli_1.0/multinli_1.0_dev_matched.jsonl",
        "MNLI/dev_matched.tsv",
    ],
)
def test_snli_and_mnli(folder, file):
    files = NliFiles(folder=str(folder), val=file, skip_labels=("-",), **COLUMNS)
    split = files.load("val")
    kept = [
        row for row in published_files.rows(published_files.PAIRS, 42) if "-" not in row.values()
    ]
    assert len(kept) == 36 and split.left_out == {"gold_label '-'": 6}
    assert split.columns["premise"].tolist() == [row["sentence1"] for row in kept]
    assert split.columns["hypothesis"].tolist() == [row["sentence2"] for row in kept]
    labels = [split.info.label_names[y] for y in split.columns["label"]]
    assert labels == [row["gold_label"] for row in kept]


def test_genres_of_mnli_can_be_chosen(folder):
    file = "multinli_1.0/multinli_1.0_dev_matched.txt"
    where = {"val": {"genre": ("slate", "travel")}}
    make = {"folder": str(folder), "val": file, "skip_labels": ("-",)}
    split = NliFiles(**make, **COLUMNS, where=where).load("val")
    assert len(split) == 24 and split.left_out == {"where": 14, "gold_label '-'": 4}


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_hans(folder, suffix):
    files = NliFiles(
        folder=str(folder),
        hans=f"hans/heuristics_evaluation_set{suffix}",
        label_names=("entailment", "non-entailment"),
        attribute="heuristic",
        attribute_names=published_files.HEURISTICS,
        suggests={h: ("entailment",) for h in published_files.HEURISTICS},
        **COLUMNS,
    )
    split = files.load("hans")
    assert split.counts().tolist() == [7] * 6 and not split.left_out
    assert split.columns["premise"][0] == "0 The president advised the doctor ."
    assert split.info.aligned == ((True,) * 3, (False,) * 3)
