"""Subpopulations: masks that overlap, from columns or from flags; which batches have them."""

import numpy as np
import pytest

from fairkd_jax import registry
from fairkd_jax.config import Data, EvaluateStage, Stage
from fairkd_jax.data.dataset import Info, make_split
from fairkd_jax.data.pipeline import eval_batches, train_batches
from fairkd_jax.data.sets.nli_files import NliFiles
from fairkd_jax.data.source import Source
from fairkd_jax.data.subpopulations import MOST, by_label, by_value

pytestmark = pytest.mark.quick

HEURISTICS = ("lexical_overlap", "subsequence", "constituent")
HANS = {
    "label_names": ("entailment", "non-entailment"),
    "attribute": "heuristic",
    "attribute_names": HEURISTICS,
    "suggests": {h: ("entailment",) for h in HEURISTICS},
}


def info(*names: str) -> Info:
    aligned = ((True, False), (False, True))
    return Info(("no", "yes"), ("a", "b"), aligned, "none", "made here", subpopulations=names)


def test_by_value_of_columns_in_the_order_of_the_alphabet():
    columns = {"kind": ["fog", "blur", "fog", ""], "severity": ["1", "1", "2", "1"]}
    names, member = by_value(columns, "here")
    assert names == ("kind=blur", "kind=fog", "severity=1", "severity=2")
    wanted = [[0, 1, 1, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]]
    np.testing.assert_array_equal(member, np.array(wanted, bool))


@pytest.mark.parametrize(("texts", "found"), [([""] * 4, 0), ([*map(str, range(300))], 300)])
def test_a_column_that_holds_no_kinds_is_refused(texts, found):
    with pytest.raises(ValueError, match=f"here: column 'id' has {found} different .* to {MOST}"):
        by_value({"id": texts}, "here")


def test_flags_by_label_have_the_names_of_wilds_and_its_order():
    flags = {"male": np.array([1, 1, 0, 0], bool), "other_religions": np.array([0, 1, 1, 0], bool)}
    names, member = by_label(flags, np.array([0, 1, 0, 1]))
    assert names[:2] == ("y:0_male:1", "y:1_male:1")
    assert names[2:] == ("y:0_other_religions:1", "y:1_other_religions:1")
    wanted = [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]  # the last is in none
    np.testing.assert_array_equal(member, np.array(wanted, bool))


def test_a_split_checks_its_masks():
    label = np.array([0, 1, 1])
    split = make_split(info("x", "y"), label, label, member=np.array([[1, 1], [0, 1], [0, 0]]))
    assert split.columns["member"].dtype == bool and split.member_counts().tolist() == [1, 2]
    assert make_split(info(), label, label).member_counts().tolist() == []
    for names, member, told in (
        (("x",), None, "member is missing, expected .* each of 3 examples and of 1 sub.*: x"),
        ((), np.ones((3, 1), bool), r"member \(3, 1\), expected .* of 0 subpop"),
        (("x", "y"), np.ones((3, 1), bool), r"member \(3, 1\), expected .* 2 subpopulations: x, y"),
        (("x",), np.ones((2, 1), bool), r"member \(2, 1\), expected"),
        (("x",), np.full((3, 1), 2), "member holds other values than truth values"),
        (("x",), np.ones((3, 1)), "member holds other .* float64"),
        (("x", "x"), np.ones((3, 2), bool), "each needs a name of its own"),
    ):
        given = {} if member is None else {"member": member}
        with pytest.raises(ValueError, match=told):
            make_split(info(*names), label, label, **given)


def test_batches_of_evaluation_alone_have_masks():
    label, member = np.arange(10) % 2, np.arange(20).reshape(10, 2) % 3 == 0
    source = Source(make_split(info("x", "y"), label, label, member=member), {})
    batches = [*eval_batches(source, 4)]
    real = np.concatenate([b["real"] for b in batches]) > 0
    np.testing.assert_array_equal(np.concatenate([b["member"] for b in batches])[real], member)
    parts = [eval_batches(source, 4, process_index=i, process_count=2)[1] for i in (0, 1)]
    np.testing.assert_array_equal(
        np.concatenate([p["member"] for p in parts]), batches[1]["member"]
    )
    assert "member" not in train_batches(source, seed=0, steps=1, batch_size=4)[0]
    assert "member" not in eval_batches(Source(make_split(info(), label, label), {}), 4)[0]


def test_columns_of_files_by_split(tmp_path):
    header = "label\tpremise\thypothesis\torigin\n"
    row = "neutral\tA man sleeps.\tHe dreams.\t"
    (tmp_path / "train.tsv").write_text("label\tpremise\thypothesis\n" + row.rstrip() + "\n")
    (tmp_path / "test.tsv").write_text(header + f"{row}original\n{row}revised\n{row}\n")
    make = {"folder": str(tmp_path), "train": "train.tsv", "test": "test.tsv"}
    pairs = NliFiles(**make, subpopulations={"test": "origin"})
    assert pairs.load("train").info.subpopulations == ()  # which has no such column
    test = pairs.load("test")
    assert test.info.subpopulations == ("origin=original", "origin=revised")
    assert test.columns["member"].tolist() == [[True, False], [False, True], [False, False]]
    for wrong, told in (
        ({"tset": "origin"}, "split in nli_files.subpopulations: 'tset'.*'test'"),
        ("origin", "subpopulations = 'origin': say of which split"),
    ):
        with pytest.raises(ValueError, match=told):
            NliFiles(**make, subpopulations=wrong)
    with pytest.raises(ValueError, match=r"column of .*test.tsv: 'orgin'.*'origin'"):
        NliFiles(**make, subpopulations={"test": ("orgin",)}).load("test")


def test_an_option_that_older_configs_lacked_is_no_part_of_an_identity(tmp_path):
    (tmp_path / "a.tsv").write_text("label\tpremise\thypothesis\n")
    spec = {"name": "nli_files", "folder": str(tmp_path), "test": "a.tsv"}

    def identity(**options) -> str:
        return Stage("evaluate", EvaluateStage(spec | options, "test", 8)).identity

    assert identity(subpopulations={}) == identity() != identity(subpopulations={"test": "label"})
    assert registry.defaults("sets", "nli_files")["subpopulations"] == {}
    assert Data(set=spec).set == spec


@pytest.mark.parametrize(
    ("file", "columns", "sizes", "options"),
    [
        ("hans_regenerated/eval", ("subcase", "heuristic"), [1000] * 30 + [10_000] * 3, HANS),
        ("nli_cad/test", "origin", [224, 448, 448], {}),
        ("nli_anli/dev", "round", [619, 607, 741], {}),
        ("nli_negation/test", ("source",), [891, 906], {}),
    ],
)
def test_real_files_have_the_sizes_their_description_gives(
    data_folder, file, columns, sizes, options
):
    dataset = NliFiles(
        folder=str(data_folder),
        test=f"{file}.tsv.gz",
        subpopulations={"test": columns},
        **options,
    )
    split = dataset.load("test")
    assert split.member_counts().tolist() == sizes
    if "hans" in file:
        assert split.info.subpopulations[-3:] == tuple(f"heuristic={h}" for h in sorted(HEURISTICS))
        subcases = split.columns["member"][:, :30]
        assert (subcases.sum(axis=1) == 1).all() and len({*split.info.subpopulations}) == 33
