"""Real texts, written in the layouts of their authors, arrive with the counts known of them.

The counts are those of the description of the files.
"""

import csv
import json

import numpy as np
import pytest
from layouts import mnli

from fairkd_jax import registry
from fairkd_jax.data.archives import Source
from fairkd_jax.data.preparing import prepare
from fairkd_jax.data.rows import read_rows

STANFORD = {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}


def rows(path, *names):
    """Rows of a file of ours, under the column names of Stanford's files."""
    for _, row in read_rows(path, ("premise", "hypothesis"), ("pair_id", "label", *names)):
        yield {STANFORD.get(k, k): v for k, v in row.items()} | {"pairID": row["pair_id"]}


def write_jsonl(path, made):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in made), encoding="utf-8")


def write_table(path, made, columns, **dialect):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", **dialect)
        writer.writerow(columns)
        writer.writerows([row[c] for c in columns] for row in made)


PLAIN = {"quoting": csv.QUOTE_NONE, "quotechar": None, "escapechar": None}


def loaded(name, source, tmp_path, **options):
    """All splits that a set has, prepared from a folder."""
    cls = registry.plugin("sets", name)
    prepare(cls.original, Source(source), str(tmp_path / "prepared"), part=True)
    dataset = cls(data_dir=str(tmp_path / "prepared"), **options)
    return lambda split: dataset.load(split)


def by_label(split, subpopulation):
    """How many of each label are in a subpopulation."""
    inside = split.columns["member"][:, split.info.subpopulations.index(subpopulation)]
    return np.bincount(split.columns["label"][inside], minlength=len(split.info.label_names))


def test_snli(data_folder, tmp_path):
    place = tmp_path / "source"
    for name, part in (("train", "train"), ("dev", "dev"), ("test", "test")):
        more = ("hard",) if name == "test" else ()
        made = [*rows(data_folder / "nli_snli" / f"{name}.tsv.gz", *more)]
        write_jsonl(place / "snli_1.0" / f"snli_1.0_{part}.jsonl", made)
    write_jsonl(place / "snli_1.0_test_hard.jsonl", [r for r in made if r["hard"] == "1"])
    load = loaded("snli", place, tmp_path)
    assert load("train").counts().tolist() == [13, 11024, 23, 10950, 351, 10698]
    assert load("val").counts().tolist() == [2, 3327, 5, 3230, 100, 3178]
    assert by_label(load("test"), "hard=easy").tolist() == [1204, 1110, 1102]
    assert by_label(load("test"), "hard=hard").tolist() == [558, 574, 610]


def test_mnli(data_folder, tmp_path):
    place = tmp_path / "source"
    parts = {"train": "train", "dev_matched": "matched", "dev_mismatched_hard": "mismatched"}
    for name in parts:
        more = () if name == "train" else ("hard",)
        made = [{**r, "genre": "x"} for r in rows(data_folder / f"nli_mnli/{name}.tsv.gz", *more)]
        part = name.removesuffix("_hard")
        write_jsonl(place / "multinli_1.0" / f"multinli_1.0_{part}.jsonl", made)
        if more:
            listed = "".join(map(str.title, part.removeprefix("dev_").split("_")))
            hard = [row for row in made if row["hard"] == "1"]
            mnli.write_hard(place / f"MNLI{listed}HardWithHardTest", hard)
    load = loaded("mnli", place, tmp_path)
    assert load("train").counts().tolist() == [49, 3160, 103, 3219, 544, 2804]
    assert by_label(load("matched"), "hard=easy").tolist() == [643, 626, 691]
    assert by_label(load("matched"), "hard=hard").tolist() == [984, 850, 794]
    assert by_label(load("mismatched"), "hard=hard").tolist() == [1022, 820, 851]


def test_hans(data_folder, tmp_path):
    told = ("heuristic", "subcase", "template")
    made = [*rows(data_folder / "hans_regenerated" / "eval.tsv.gz", *told)]
    columns = ("gold_label", "sentence1", "sentence2", "pairID", *told)
    write_table(tmp_path / "source" / "heuristics_evaluation_set.txt", made, columns, **PLAIN)
    split = loaded("hans", tmp_path / "source", tmp_path)("test")
    assert split.counts().tolist() == [5000] * 6
    names, counts = split.info.subpopulations, split.member_counts()
    subcases = [n for name, n in zip(names, counts) if name.startswith("subcase=")]
    assert subcases == [1000] * 30


def test_cad(data_folder, tmp_path):
    place = tmp_path / "source" / "NLI"
    for name in ("train", "dev", "test"):
        made = [*rows(data_folder / "nli_cad" / f"{name}.tsv.gz", "origin")]
        for origin in ("original", "revised_premise", "revised_hypothesis"):
            mine = [row for row in made if row["origin"] == origin]
            write_table(place / origin / f"{name}.tsv", mine, tuple(STANFORD.values()))
    load = loaded("cad", tmp_path / "source", tmp_path)
    for split, wanted in {
        "train": ([562, 554, 550], [1104, 1112, 1116]),
        "val": ([74, 75, 51], [126, 125, 149]),
        "test": ([74, 74, 76], [150, 150, 148]),
    }.items():
        found = load(split)
        assert by_label(found, "origin=original").tolist() == wanted[0]
        for origin in ("revised_premise", "revised_hypothesis"):
            assert by_label(found, f"origin={origin}").tolist() == wanted[1]


def test_anli(data_folder, tmp_path):
    made = [*rows(data_folder / "nli_anli" / "dev.tsv.gz", "round", "uid")]
    for number in ("R1", "R2", "R3"):
        mine = [
            {"uid": r["uid"], "context": r["sentence1"], "hypothesis": r["sentence2"]}
            | {"label": r["gold_label"][0]}
            for r in made
            if r["round"] == number
        ]
        write_jsonl(tmp_path / "source" / "anli_v1.0" / number / "dev.jsonl", mine)
    split = loaded("anli", tmp_path / "source", tmp_path)("val")
    wanted = {"r1": [231, 203, 185], "r2": [199, 207, 201], "r3": [250, 243, 248]}
    for one, counts in wanted.items():
        assert by_label(split, f"round={one}").tolist() == counts
    cls = registry.plugin("sets", "anli")
    third = cls(data_dir=str(tmp_path / "prepared"), rounds=("r3",)).load("val")
    assert len(third) == 741 and third.left_out == {"round": 619 + 607}


def test_negation(data_folder, tmp_path):
    made = [*rows(data_folder / "nli_negation" / "test.tsv.gz", "source")]
    for name in ("MNLI", "SNLI"):
        mine = [
            {"index": str(i), "Text": r["sentence1"], "Hypothesis": r["sentence2"]} | r
            for i, r in enumerate(made)
            if r["source"] == name
        ]
        path = tmp_path / "source" / "clean_data" / f"{name}.txt"
        write_table(path, mine, ("index", "Text", "Hypothesis", "gold_label"), **PLAIN)
        path.write_bytes(path.read_text("utf-8").encode("cp1252" if name == "MNLI" else "utf-8"))
    split = loaded("negation_nli", tmp_path / "source", tmp_path)("test")
    assert by_label(split, "source=mnli").tolist() == [208, 362, 321]
    assert by_label(split, "source=snli").tolist() == [148, 519, 239]
    assert set(split.columns["premise"]) == {row["sentence1"] for row in made}


@pytest.mark.parametrize(
    ("file", "attribute", "wanted"),
    [
        (
            "toxicity_templates/test.tsv.gz",
            "identity_type",
            {
                "age": (4224, 4376),
                "disability": (1584, 1641),
                "ethnicity": (8976, 9299),
                "gender": (2640, 2735),
                "religion": (4224, 4376),
                "sexuality": (4752, 4923),
            },
        ),
        ("wiki_toxicity/test.tsv.gz", "mentions_identity", {"0": (476, 58), "1": (408, 111)}),
        (
            "hatecheck/test.tsv.gz",
            "target_ident",
            {
                "Muslims": (75, 269),
                "black people": (84, 259),
                "disabled people": (75, 269),
                "gay people": (118, 269),
                "immigrants": (73, 259),
                "none": (201, 0),
                "trans people": (73, 259),
                "women": (94, 269),
            },
        ),
    ],
)
def test_toxicity(data_folder, file, attribute, wanted):
    labels = ("non-hateful", "hateful") if "hate" in file else ("nontoxic", "toxic")
    split = registry.build(
        "sets",
        {
            "name": "text_files",
            "folder": str(data_folder),
            "test": file,
            "label_names": labels,
            "attribute": attribute,
            "attribute_names": tuple(wanted),
            "suggests": dict.fromkeys(wanted, labels),
            "subpopulations": {"test": attribute},
        },
    ).load("test")
    assert split.counts().reshape(2, -1).T.tolist() == [[*counts] for counts in wanted.values()]
    assert split.member_counts().tolist() == [sum(wanted[k]) for k in sorted(wanted)]


def test_wiki_pairs(data_folder):
    names = ("base_wiki", "sim_wiki", "translate_wiki")
    split = registry.build(
        "sets",
        {
            "name": "nli_files",
            "folder": str(data_folder),
            "test": "nli_wiki/test.tsv.gz",
            "attribute": "protocol",
            "attribute_names": names,
            "suggests": dict.fromkeys(names, ("entailment",)),
        },
    ).load("test")
    assert split.counts().tolist() == [39, 33, 51, 52, 47, 39, 46, 57, 41]
