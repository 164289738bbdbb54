"""Pairs from files: formats, names, errors with line numbers, and real data."""

import gzip
import json

import numpy as np
import pytest

from fairkd_jax.data.rows import read_rows
from fairkd_jax.data.sets.nli_files import NliFiles
from fairkd_jax.data.shortcuts import negates, overlaps
from fairkd_jax.registry import UnknownName

ROWS = [
    ("entailment", "A man sleeps on a bench.", "A man sleeps."),
    ("neutral", "A man sleeps on a bench.", "The man is tired."),
    ("contradiction", "Two dogs run.", "Nobody runs, not even dogs."),
    ("contradiction", "The dog chased a man.", "A man chased the dog."),
]


def write(path, rows=ROWS, header=("label", "premise", "hypothesis")):
    if ".jsonl" in path.name:
        text = "".join(json.dumps(dict(zip(header, row))) + "\n" for row in rows)
    elif ".csv" in path.name:
        text = "".join(",".join(f'"{f}"' for f in row) + "\n" for row in [header, *rows])
    else:
        text = "".join("\t".join(row) + "\n" for row in [header, *rows])
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


@pytest.mark.parametrize(
    "name", ["a.tsv", "a.tsv.gz", "a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz"]
)
def test_all_formats_read_alike(tmp_path, name):
    write(tmp_path / name)
    split = NliFiles(folder=str(tmp_path), train=name).load("train")
    assert split.columns["premise"].tolist() == [row[1] for row in ROWS]
    assert split.columns["hypothesis"].tolist() == [row[2] for row in ROWS]
    assert split.columns["label"].tolist() == [0, 1, 2, 2]
    assert split.columns["attribute"].tolist() == [0, 1, 1, 0]  # overlap, no_overlap
    assert split.info.aligned == ((True, False), (False, True), (False, True))


def test_labels_go_by_name(tmp_path):
    write(tmp_path / "a.tsv")
    names = ("contradiction", "entailment", "neutral")
    split = NliFiles(folder=str(tmp_path), train="a.tsv", label_names=names).load("train")
    assert [split.info.label_names[y] for y in split.columns["label"]] == [r[0] for r in ROWS]
    assert split.info.aligned == ((False, True), (True, False), (False, True))


def test_negation_and_columns_as_attributes(tmp_path):
    write(tmp_path / "a.tsv")
    split = NliFiles(folder=str(tmp_path), train="a.tsv", attribute="negation").load("train")
    assert split.columns["attribute"].tolist() == [1, 1, 0, 1]
    assert split.info.aligned == ((False, True), (False, True), (True, False))
    rows = [("entailment", "a b c", "a b", "sub"), ("non-entailment", "a b c", "b a", "lex")]
    write(tmp_path / "hans.tsv", rows, ("label", "premise", "hypothesis", "heuristic"))
    hans = NliFiles(
        folder=str(tmp_path),
        hans="hans.tsv",
        label_names=("entailment", "non-entailment"),
        attribute="heuristic",
        attribute_names=("lex", "sub"),
        suggests={"lex": ("entailment",), "sub": ["entailment"]},
    )
    split = hans.load("hans")
    assert split.columns["group"].tolist() == [1, 2]
    assert split.info.aligned == ((True, True), (False, False))
    assert split.info.collapses == {"non-entailment": ("neutral", "contradiction")}
    assert hans.splits == ("hans",)
    with pytest.raises(UnknownName, match="train"):
        hans.load("train")


def test_rows_are_kept_by_value_by_part_and_by_number(tmp_path):
    rows = [("neutral", f"premise {i // 3}", f"h {i}", "ab"[i % 2]) for i in range(60)]
    write(tmp_path / "a.tsv", rows, ("label", "premise", "hypothesis", "kind"))
    make = {"folder": str(tmp_path), "val": "a.tsv", "test": "a.tsv"}
    kept = NliFiles(**make, where={"val": {"kind": "a"}})
    assert len(kept.load("val")) == 30 and len(kept.load("test")) == 60
    halves = NliFiles(**make, part={"val": "1/2", "test": "2/2"})
    val, test = (set(halves.load(s).columns["premise"].tolist()) for s in ("val", "test"))
    assert val and test and not val & test and len(val | test) == 20
    few = NliFiles(**make, limit=6).load("val").columns
    assert few["id"].tolist() == [2, 12, 22, 32, 42, 52]  # line numbers, evenly spaced


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "a.csv"])
def test_a_broken_row_is_named_by_file_and_line(tmp_path, name):
    write(tmp_path / name, [*ROWS[:2], ("neutral", "no hypothesis"), ROWS[3]])
    with pytest.raises(ValueError, match=f"{name}: line 4 has 2 fields, the header has 3"):
        NliFiles(folder=str(tmp_path), train=name).load("train")


def test_broken_json_and_broken_gzip_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"label": "neutral", "premise": "a", "hypothesis": "b"}\n{')
    with pytest.raises(ValueError, match=r"a\.jsonl: line 2 is no JSON"):
        NliFiles(folder=str(tmp_path), train="a.jsonl").load("train")
    write(tmp_path / "b.tsv.gz", ROWS * 100)
    (tmp_path / "b.tsv.gz").write_bytes((tmp_path / "b.tsv.gz").read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"b\.tsv\.gz: .*end-of-stream"):
        NliFiles(folder=str(tmp_path), train="b.tsv.gz").load("train")


def test_an_unknown_label_names_file_line_value_and_choices(tmp_path):
    write(tmp_path / "a.tsv", [ROWS[0], ("entailmnt", "a", "b")])
    with pytest.raises(UnknownName) as error:
        NliFiles(folder=str(tmp_path), train="a.tsv").load("train")
    for text in ("a.tsv", "line 3", "'entailmnt'", "Did you mean 'entailment'", "neutral"):
        assert text in str(error.value)


def test_missing_things_are_named_before_anything_is_read(tmp_path):
    write(tmp_path / "here.tsv")
    with pytest.raises(ValueError, match="folder is empty"):
        NliFiles(train="a.tsv")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        NliFiles(folder=str(tmp_path / "nowhere"), train="a.tsv")
    with pytest.raises(FileNotFoundError, match=r"there\.tsv not found.*here\.tsv"):
        NliFiles(folder=str(tmp_path), train="there.tsv")
    with pytest.raises(ValueError, match="no file for any of"):
        NliFiles(folder=str(tmp_path))
    with pytest.raises(UnknownName, match=r"format.*\.xlsx"):
        NliFiles(folder=str(tmp_path), train="a.xlsx")
    here = {"folder": str(tmp_path), "train": "here.tsv"}
    with pytest.raises(UnknownName, match=r"column of .*here\.tsv"):
        NliFiles(**here, premise="text_a").load("train")
    with pytest.raises(ValueError, match="attribute_names"):
        NliFiles(**here, attribute="heuristic")
    with pytest.raises(UnknownName, match="where"):
        NliFiles(**here, where={"val": {"label": "neutral"}})
    with pytest.raises(UnknownName, match="entails"):
        NliFiles(**here, suggests={"overlap": ("entails",)})
    with pytest.raises(ValueError, match="part of train = '3/2'"):
        NliFiles(**here, part={"train": "3/2"})
    with pytest.raises(ValueError, match="no row of"):
        NliFiles(**here, where={"train": {"label": "never"}}).load("train")


def test_real_files_have_the_counts_their_description_gives(data_folder):
    """Counts by label and negation, by label and heuristic, from the description of the files."""
    dataset = NliFiles(
        folder=str(data_folder),
        train="nli_mnli/train.tsv.gz",
        val="nli_mnli/dev_matched.tsv.gz",
        attribute="neg_hyp",
        attribute_names=("0", "1"),
        suggests={"0": ("entailment", "neutral"), "1": ("contradiction",)},
        where={"val": {"text_form": "raw_no_final_period"}},
    )
    assert dataset.load("train").counts().tolist() == [3160, 49, 3219, 103, 2804, 544]
    assert len(dataset.load("val")) < 4588
    names = ("lexical_overlap", "subsequence", "constituent")
    hans = NliFiles(
        folder=str(data_folder),
        hans="hans_regenerated/eval.tsv.gz",
        label_names=("entailment", "non-entailment"),
        attribute="heuristic",
        attribute_names=names,
        suggests={name: ("entailment",) for name in names},
    ).load("hans")
    assert hans.counts().tolist() == [5000] * 6


@pytest.mark.parametrize(
    ("file", "labels"),
    [
        ("nli_snli/test.tsv.gz", "entailment neutral contradiction"),
        ("nli_mnli/train.tsv.gz", "entailment neutral contradiction"),
        ("nli_cad/dev.tsv.gz", "entailment neutral contradiction"),
    ],
)
def test_computed_attributes_equal_the_columns_of_real_files(data_folder, file, labels):
    computed = {"full_overlap": overlaps, "neg_hyp": negates}
    for column, function in computed.items():
        for line, row in read_rows(data_folder / file, ("premise", "hypothesis"), (column,)):
            wanted = row[column] == "1"
            assert function(row["premise"], row["hypothesis"]) == wanted, (file, line, column)
    counts = NliFiles(folder=str(data_folder), test=file, label_names=tuple(labels.split()))
    assert np.sum(counts.load("test").counts()) == line - 1
