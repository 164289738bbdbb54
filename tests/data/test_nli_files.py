"""Pairs from files: formats, names, errors with line numbers, and real data."""

import gzip
import json
import tracemalloc

import numpy as np
import pytest

from fairkd_jax.data.rows import read_rows
from fairkd_jax.data.sets.nli_files import NliFiles
from fairkd_jax.data.shortcuts import negates, overlaps
from fairkd_jax.registry import UnknownName

pytestmark = pytest.mark.quick

ROWS = [
    ("entailment", "A man sleeps on a bench.", "A man sleeps."),
    ("neutral", "A man sleeps on a bench.", "The man is tired."),
    ("contradiction", "Two dogs run.", "Nobody runs, not even dogs."),
    ("contradiction", "The dog chased a man.", "A man chased the dog."),
]

KEYS = ("premise", "hypothesis", "kind")


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


@pytest.mark.parametrize(
    "names", [("e", "n", "c"), ("Entailment", "neutral", "contradiction"), ("0", "1", "2")]
)
@pytest.mark.parametrize("attribute", ["overlap", "negation"])
def test_a_label_of_which_a_computed_attribute_says_nothing_is_refused(tmp_path, names, attribute):
    write(tmp_path / "a.tsv")
    make = {"folder": str(tmp_path), "train": "a.tsv", "label_names": names}
    with pytest.raises(ValueError) as error:
        NliFiles(**make, attribute=attribute)
    knows = "contradiction, entailment, neutral, non-entailment"
    for text in (f"suggests the label '{names[0]}'", f"knows {knows}", "suggests = {", "label_map"):
        assert text in str(error.value)
    values = {"overlap": ("overlap", "no_overlap"), "negation": ("negation", "no_negation")}
    first, second = values[attribute]
    told = NliFiles(**make, attribute=attribute, suggests={first: names[:1], second: names[1:]})
    assert told.info.aligned == ((True, False), (False, True), (False, True))


def test_what_a_computed_attribute_suggests_may_be_said_anew_value_by_value(tmp_path):
    write(tmp_path / "a.tsv")
    make = {"folder": str(tmp_path), "train": "a.tsv"}
    info = NliFiles(**make, suggests={"overlap": ("entailment", "neutral")}).info
    assert info.aligned == ((True, False), (True, True), (False, True))


def test_a_label_that_no_value_of_a_column_suggests_is_refused_unless_it_is_meant(tmp_path):
    write(tmp_path / "a.tsv")
    make = {
        "folder": str(tmp_path),
        "train": "a.tsv",
        "attribute": "kind",
        "attribute_names": ("x", "y"),
    }
    suggests = {"x": ("entailment",), "y": ("contradiction",)}
    with pytest.raises(ValueError, match=r"label 'neutral'.*suggests = \{'x': \(\.\.\.\), 'y'"):
        NliFiles(**make, suggests=suggests)
    meant = NliFiles(**make, suggests=suggests, never_suggested=("neutral",))
    assert meant.info.aligned == ((True, False), (False, False), (False, True))
    with pytest.raises(ValueError, match="suggests has no label for attribute value 'y'"):
        NliFiles(**make, suggests={"x": ("entailment",)})
    alike = NliFiles(**make, suggests={"x": ("entailment",), "y": ("entailment",)})  # as in HANS
    assert alike.info.aligned == ((True, True), (False, False), (False, False))


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_labels_may_be_written_otherwise(tmp_path, name):
    """As in ANLI (e, n, c) and in the training files of XNLI (contradictory)."""
    rows = [("e ", "a b", "a"), ("neutral", "a b", "c"), ("contradictory", "a b", "d")]
    write(tmp_path / name, rows)
    spelled = {"e": "entailment", "contradictory": "contradiction"}
    split = NliFiles(folder=str(tmp_path), train=name, label_map=spelled).load("train")
    assert split.columns["label"].tolist() == [0, 1, 2]
    with pytest.raises(UnknownName, match=r"label_map\.e: 'entails'.*'entailment'"):
        NliFiles(folder=str(tmp_path), train=name, label_map={"e": "entails"})


def test_labels_that_are_whole_numbers_are_told_so_or_mapped(tmp_path):
    rows = [(0, "a b", "a"), (2, "a b", "d")]
    write(tmp_path / "a.jsonl", rows)
    write(tmp_path / "a.tsv", [(str(y), *texts) for y, *texts in rows])
    for name in ("a.jsonl", "a.tsv"):
        make = {"folder": str(tmp_path), "train": name}
        with pytest.raises(
            ValueError, match=r"label in .*line \d is the whole number 0.*label_map"
        ):
            NliFiles(**make).load("train")
        with pytest.raises(
            ValueError, match=r"label_names = \(0, 1, 2\).*texts.*\('0', '1', '2'\)"
        ):
            NliFiles(**make, label_names=(0, 1, 2))
        for zero, two in (("0", "2"), (0, 2)):
            mapped = NliFiles(**make, label_map={zero: "entailment", two: "contradiction"})
            assert mapped.load("train").columns["label"].tolist() == [0, 2]
        suggests = {"overlap": ("0",), "no_overlap": ("1", "2")}
        texts = NliFiles(**make, label_names=("0", "1", "2"), suggests=suggests)
        assert texts.load("train").columns["label"].tolist() == [0, 2]
        skipped = NliFiles(**make, label_map={2: "contradiction"}, skip_labels=(0,)).load("train")
        assert skipped.columns["label"].tolist() == [2] and skipped.left_out == {"label '0'": 1}
    with pytest.raises(ValueError, match=r"attribute_names = \(0, 1\)"):
        NliFiles(**make, attribute="hard", attribute_names=(0, 1), suggests={"0": ("neutral",)})


def test_every_row_is_in_the_split_or_counted(tmp_path):
    rows = [("-", "a b", "a", "x"), ("neutral", "a b", "", "x"), ("neutral", "a", "b", "y")]
    rows += [("neutral", f"p{i}", "q", "x") for i in range(20)]
    write(tmp_path / "a.tsv", rows, ("label", "premise", "hypothesis", "kind"))
    make = {"folder": str(tmp_path), "train": "a.tsv", "where": {"train": {"kind": "x"}}}
    with pytest.raises(ValueError, match=r"hypothesis in .*a\.tsv, line 3 is empty; skip_empty"):
        NliFiles(**make, skip_labels=("-",)).load("train")
    with pytest.raises(UnknownName, match=r"label .*a\.tsv, line 2.*skip_labels.*'-'"):
        NliFiles(**make, skip_empty=True).load("train")
    make |= {"skip_labels": ("-",), "skip_empty": True}
    split = NliFiles(**make).load("train")
    assert split.left_out == {"label '-'": 1, "no text": 1, "where": 1}
    split = NliFiles(**make, limit=3, part={"train": "1/2"}).load("train")
    assert len(split) + sum(split.left_out.values()) == len(rows)
    assert set(split.left_out) <= {"label '-'", "no text", "where", "part", "limit"}
    write(tmp_path / "b.tsv", [("neutral", " ", "b")])
    with pytest.raises(ValueError, match=r"premise in .*b\.tsv, line 2 is empty"):
        NliFiles(folder=str(tmp_path), train="b.tsv").load("train")
    with pytest.raises(ValueError, match=r"no row of .*left out: no text: 1"):
        NliFiles(folder=str(tmp_path), train="b.tsv", skip_empty=True).load("train")


def test_where_takes_one_value_or_several_and_each_must_occur(tmp_path):
    rows = [("neutral", f"p {i}", "h", kind) for i, kind in enumerate("aabbbc")]
    write(tmp_path / "a.tsv", rows, ("label", "premise", "hypothesis", "kind"))
    write(tmp_path / "a.jsonl", [(*r[:3], i % 2 > 0) for i, r in enumerate(rows)], ("label", *KEYS))
    make = {"folder": str(tmp_path), "val": "a.tsv"}
    for values, kept in (("a", 2), (("a", "c"), 3), (["b"], 3), (("a", "b", "c"), 6)):
        split = NliFiles(**make, where={"val": {"kind": values}}).load("val")
        assert len(split) == kept
        assert split.left_out == ({"where": 6 - kept} if kept < 6 else {})
    for value in (True, "true"):
        where = {"val": {"kind": value}}
        assert len(NliFiles(folder=str(tmp_path), val="a.jsonl", where=where).load("val")) == 3
    with pytest.raises(UnknownName, match=r"value in nli_files.where.val.kind: 'd'.*a, b, c"):
        NliFiles(**make, where={"val": {"kind": ("a", "d")}}).load("val")
    with pytest.raises(ValueError, match=r"where.val.kind = \(\): name a column and"):
        NliFiles(**make, where={"val": {"kind": ()}})
    with pytest.raises(ValueError, match=r"where.val.kind = 0.5, expected a text"):
        NliFiles(**make, where={"val": {"kind": 0.5}})


def test_columns_must_be_named_and_differ(tmp_path):
    write(tmp_path / "a.tsv")
    make = {"folder": str(tmp_path), "train": "a.tsv"}
    with pytest.raises(ValueError, match="premise = '': name a column"):
        NliFiles(**make, premise="")
    with pytest.raises(ValueError, match="premise = 'text', as hypothesis is: name a column"):
        NliFiles(**make, premise="text", hypothesis="text")
    with pytest.raises(ValueError, match="'-' is to be left out by skip_labels and kept by"):
        NliFiles(**make, skip_labels=("-",), label_map={"-": "neutral"})
    with pytest.raises(ValueError, match="a name occurs twice"):
        NliFiles(**make, label_names=("entailment", "neutral", "neutral"))


def test_a_limit_that_would_drop_a_class_is_refused(tmp_path):
    """SNLI's files have their labels in a fixed order."""
    rows = [(ROWS[i % 3][0], f"p {i}", "h") for i in range(90)]
    write(tmp_path / "a.tsv", rows)
    with pytest.raises(ValueError, match=r"limit = 10 .*90 rows.*none of them has label = 'contra"):
        NliFiles(folder=str(tmp_path), train="a.tsv", limit=10).load("train")
    split = NliFiles(folder=str(tmp_path), train="a.tsv", limit=11).load("train")
    assert len(split) == 11 and set(split.columns["label"]) == {0, 1, 2}
    assert split.left_out == {"limit": 79}
    with pytest.raises(ValueError, match="limit = -1"):
        NliFiles(folder=str(tmp_path), train="a.tsv", limit=-1)


def test_one_long_text_does_not_make_all_long(tmp_path):
    """In an array of fixed width these 11 MB take a gigabyte."""
    rows = [("neutral", f"p {i} {'x' * 4000}", "h") for i in range(2500)]
    write(tmp_path / "a.tsv", [("entailment", "y" * 100_000, "h"), *rows])
    tracemalloc.start()
    split = NliFiles(folder=str(tmp_path), train="a.tsv").load("train")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert {split.columns[c].dtype for c in ("premise", "hypothesis")} == {np.dtype(object)}
    assert peak < 2 * (tmp_path / "a.tsv").stat().st_size


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
