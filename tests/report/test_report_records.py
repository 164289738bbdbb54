"""Records of a synthetic study: rows, names, numbers of examples, links, and what is refused."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import synthetic_study

from fairkd_jax.registry import UnknownName
from fairkd_jax.report import records

WORST = "worst_group_accuracy"


@pytest.fixture
def tmp_path(tmp_path):
    """The study's own folder in a work folder."""
    return tmp_path / "studies" / "synthetic"


def test_one_number_a_row(tmp_path):
    study = synthetic_study.build(tmp_path)
    finished = records.read(tmp_path)
    (tmp_path / "records.csv").write_text(records.as_csv(finished))
    table = pd.read_csv(tmp_path / "records.csv", keep_default_na=False)
    assert tuple(table.columns) == records.COLUMNS
    metrics, groups = 10, 4  # of an evaluation; the second evaluation adds gap_id_ood
    assert len(table) == len(study["runs"]) * (2 * (metrics + groups) + 1)
    assert not table.duplicated(["run", "dataset", "split", "group", "metric"]).any()
    run = study["runs"][2]
    row = table[(table["run"] == run["run"]) & (table["metric"] == WORST)].iloc[0]
    assert (row["role"], row["debias"], row["distill"]) == ("distilled", "erm", "logits")
    assert (row["model"], row["teacher_model"]) == ("resnet/tiny", "resnet/mini")
    assert (row["parameters"], row["seed"], row["selection"]) == (12000, 0, "last")
    assert (row["dataset"], row["split"], row["group"]) == ("made_digits", "test", "")
    assert row["stage"] == run["evaluations"]["in_domain/test"]
    assert float(row["value"]) == pytest.approx(
        0.10 + synthetic_study.ripple("distilled", 0, "erm")
    )


def test_n_is_the_number_of_examples_behind_the_value(tmp_path):
    synthetic_study.build(tmp_path)
    rows = records.read(tmp_path).rows
    n = rows[rows["evaluation"] == "in_domain/test"].groupby(["metric", "group"])["n"].unique()
    assert n["acc_avg", ""].tolist() == [1000]
    assert n[WORST, ""].tolist() == [60]
    assert n["worst_class_accuracy", ""].tolist() == [460]  # of 5-9
    assert n["gap_attribute/green", ""].tolist() == [440]
    assert n["acc_aligned", ""].tolist() == [900] and n["acc_conflicting", ""].tolist() == [100]
    assert [n["accuracy", g].item() for g in synthetic_study.GROUPS] == [500, 40, 60, 400]


def test_worst_group_is_the_one_of_most_runs(tmp_path):
    study = synthetic_study.build(tmp_path, seeds=3, counts=(500, 0, 60, 400))
    finished = records.read(tmp_path)
    ids = [run["run"] for run in study["runs"]]
    assert finished.worst_group(ids, "in_domain/test") == (synthetic_study.GROUPS[2], len(ids))
    assert finished.worst_group(ids[:0], "in_domain/test") == ("", 0)


def test_axis_values_that_hold_a_methods_name_are_not_any_that_hold_its_letters():
    about = {"distill": "logits", "teacher_model": "a", "model": "b", "seeds": (0,), "runs": {}}
    axes = (("layer", "intermediate"), ("method", "erm, wide"))
    assert records.Comparison("erm", axes=axes, **about).method == (
        "erm, wide",
        "layer=intermediate",
    )


def test_a_set_read_twice_is_told_apart_by_its_evaluation(tmp_path):
    synthetic_study.build(tmp_path)
    rows = records.read(tmp_path).rows
    names = rows.groupby("evaluation")["dataset"].unique()
    assert names["in_domain/test"].tolist() == ["made_digits"]
    assert names["shifted/test"].tolist() == ["made_digits (shifted)"]


def test_gap_between_domains(tmp_path):
    study = synthetic_study.build(tmp_path)
    finished = records.read(tmp_path)
    runs = [run["run"] for run in study["runs"]]
    inside, outside = (
        finished.values(runs, f"{e}/test", "acc_avg") for e in ("in_domain", "shifted")
    )
    gap = finished.values(runs, "shifted/test", "gap_id_ood")
    np.testing.assert_allclose(gap, inside - outside)
    assert np.isnan(finished.values(runs, "in_domain/test", "gap_id_ood")).all()


PARTS = {"subcase=a/b": 700, "round=R1": 30, "origin=x, revised": 250}


def test_subpopulations_have_rows_of_their_own(tmp_path):
    names = ("acc_subpopulation/round=R1", "worst_subpopulation_accuracy", "gap_id_ood/subcase=a/b")
    headlines = [f"shifted/test/{name}" for name in names]
    study = synthetic_study.build(tmp_path, subpopulations=PARTS, headline=headlines)
    finished = records.read(tmp_path)
    (tmp_path / "records.csv").write_text(records.as_csv(finished))
    table = pd.read_csv(tmp_path / "records.csv", keep_default_na=False)
    assert tuple(table.columns) == (*records.COLUMNS, "worst")
    assert not table.duplicated(["run", "dataset", "split", "group", "metric"]).any()
    run = study["runs"][2]
    rows = table[(table["run"] == run["run"]) & (table["dataset"] == "made_digits (shifted)")]

    def one(metric, group=""):
        row = rows[(rows["metric"] == metric) & (rows["group"] == group)]
        return row["n"].item(), row["worst"].item(), float(row["value"].item())

    for i, (name, n) in enumerate(PARTS.items()):
        accuracy = 0.8 - 0.1 * i
        assert one("acc_subpopulation", name) == (n, "", pytest.approx(accuracy))
        inside = finished.values([run["run"]], "in_domain/test", "acc_avg")[0]
        assert one("gap_id_ood", name) == (n, "", pytest.approx(inside - accuracy))
    for metric in ("worst_subpopulation_accuracy", "acc_wg"):
        assert one(metric) == (250, "origin=x, revised", pytest.approx(0.6))
    assert one("worst_group_accuracy")[:2] == (60, synthetic_study.GROUPS[2])  # not mixed
    assert one("gap_id_ood")[0] == 1000
    ids = [r["run"] for r in study["runs"]]
    worst = finished.worst_group(ids, "shifted/test", "acc_subpopulation")
    assert worst == ("origin=x, revised", len(ids))
    assert [(m, g) for _, m, g in finished.headline()] == [
        ("acc_subpopulation", "round=R1"),
        ("worst_subpopulation_accuracy", ""),
        ("gap_id_ood", "subcase=a/b"),
    ]
    assert set(finished.rows.loc[finished.rows["group"].isin(PARTS), "evaluation"]) == {
        "shifted/test"
    }


def test_empty_group_is_nan(tmp_path):
    study = synthetic_study.build(tmp_path, counts=(500, 0, 60, 400))
    finished = records.read(tmp_path)
    run = study["runs"][0]["run"]
    empty = synthetic_study.GROUPS[1]
    assert math.isnan(finished.values([run], "in_domain/test", "accuracy", empty)[0])
    (tmp_path / "records.csv").write_text(records.as_csv(finished))
    table = pd.read_csv(tmp_path / "records.csv")
    assert table[(table["group"] == empty)]["value"].isna().all()
    assert (table[(table["group"] == empty)]["n"] == 0).all()


def test_comparisons_follow_links_and_seeds(tmp_path):
    synthetic_study.build(tmp_path, seeds=3)
    first, second = records.read(tmp_path).comparisons()
    assert (first.debias, second.debias) == ("erm", "group_dro")
    assert first.seeds == (0, 1, 2) and first.axes == ()
    assert first.pair == "resnet/mini → resnet/tiny"
    assert first.runs["teacher"] == tuple(f"teacher erm  seed{s}" for s in range(3))
    assert records.labels([first, second]) == ["erm", "group_dro"]


def test_axes_are_kept_in_names_and_in_groups(tmp_path):
    synthetic_study.build(tmp_path, seeds=2, axes={"mix.scope": ["total", "task"]})
    finished = records.read(tmp_path)
    assert finished.telling_axes == ("mix.scope",)  # "debias" says nothing that the method does not
    assert [c.axes for c in finished.comparisons()[:2]] == [
        (("mix.scope", "total"),),
        (("mix.scope", "task"),),
    ]
    assert finished.rows["run"].str.contains(r"\[mix\.scope=(?:total|task)\]").all()
    assert records.labels(finished.comparisons())[1] == "erm · mix.scope=task"


def test_options_tell_runs_of_one_name_apart(tmp_path):
    study = synthetic_study.build(tmp_path, seeds=1, axes={"distill": ["logits", "logits "]})
    for i, run in enumerate(study["runs"]):
        run["axes"] = {"distill": "logits"}
        run["distill_options"] = [{"name": "logits", "temperature": 1 + i // 3}]
    synthetic_study.write(tmp_path, study)
    axes = [dict(c.axes) for c in records.read(tmp_path).comparisons()]
    assert axes == [{"distill.temperature": str(t)} for t in (1, 2, 3, 4)]


@pytest.mark.parametrize("link", ["teacher_run", "baseline_run"])
def test_refuses_a_distilled_run_without_what_it_is_compared_with(tmp_path, link):
    study = synthetic_study.build(tmp_path, seeds=1)
    run = next(r for r in study["runs"] if r["role"] == "distilled")
    run[link] = ""
    synthetic_study.write(tmp_path, study)
    with pytest.raises(ValueError, match=f"{run['run']}.*no {link.removesuffix('_run')}"):
        records.read(tmp_path)


def test_refuses_a_baseline_that_is_none(tmp_path):
    study = synthetic_study.build(tmp_path, seeds=1)
    study["runs"][2]["baseline_run"] = study["runs"][2]["teacher_run"]
    synthetic_study.write(tmp_path, study)
    with pytest.raises(ValueError, match="no baseline"):
        records.read(tmp_path)


def test_refuses_a_missing_result(tmp_path):
    study = synthetic_study.build(tmp_path, seeds=1)
    run = study["runs"][4]
    missing = tmp_path.parent.parent / "stages" / run["evaluations"]["shifted/test"] / "result.json"
    missing.unlink()
    with pytest.raises(ValueError, match=f"{run['run']}.*shifted/test") as error:
        records.read(tmp_path)
    assert f"{missing.parent} " in str(error.value) and "result.json is missing" in str(error.value)


def test_refuses_twins(tmp_path):
    study = synthetic_study.build(tmp_path, seeds=1)
    twin = study["runs"][2] | {"run": "twin"}
    synthetic_study.write(tmp_path, study | {"runs": [*study["runs"], twin]})
    with pytest.raises(ValueError, match="twin"):
        records.read(tmp_path).comparisons()


def test_refuses_an_unknown_headline_and_names_the_choices(tmp_path):
    synthetic_study.build(tmp_path, seeds=1, headline=["in_domain/test/worst_group_acuracy"])
    with pytest.raises(UnknownName, match="Did you mean 'in_domain/test/worst_group_accuracy'"):
        records.read(tmp_path).headline()
    synthetic_study.build(tmp_path, seeds=1, headline=[])
    with pytest.raises(ValueError, match="no headline"):
        records.read(tmp_path).headline()


def test_headline_by_group(tmp_path):
    name = "in_domain/test/acc_group/0-4, green"
    synthetic_study.build(tmp_path, seeds=1, headline=[name])
    assert records.read(tmp_path).headline() == [("in_domain/test", "accuracy", "0-4, green")]


def test_no_study(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"study\.json"):
        records.read(tmp_path)


def test_the_builder_writes_plain_json(tmp_path):
    study = synthetic_study.build(tmp_path, seeds=1)
    assert json.loads((tmp_path / "study.json").read_text())["study"] == study["study"]
