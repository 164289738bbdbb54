"""A report on students of several teachers: against each, and against their mean."""

import math

import numpy as np
import pandas as pd
import pytest
import synthetic_study

from fairkd_jax.report import headline, html, records

METRIC = ("in_domain/test", "worst_group_accuracy", "")
SMALL = 0.5  # worst-group accuracy of the second teacher, by seed a little more


@pytest.fixture
def folder(tmp_path):
    """A study whose students have a second teacher, of the student's size, by plain training."""
    folder = tmp_path / "studies" / "synthetic"
    study = synthetic_study.build(folder, seeds=6)
    rows, small = [], {}
    for run in study["runs"]:
        if run["role"] == "teacher":
            name = run["run"].replace("teacher", "teacher small")
            worst = SMALL + 0.01 * run["seed"]
            evaluations = {
                f"{data}/test": synthetic_study._evaluate(folder, name, data, worst, COUNTS)
                for data in ("in_domain", "shifted")
            }
            small[run["run"]] = {
                **run,
                "run": name,
                "model": "resnet/tiny",
                "parameters": 12000,
                "debias": "erm",
                "stage": synthetic_study._train(folder, name, worst),
                "evaluations": evaluations,
            }
            rows += [run, small[run["run"]]]
            continue
        big = run["teacher_run"]
        run["teachers"] = {"big": big, "small": small[big]["run"]}
        inside = run["comparisons"]["teacher"]
        run["comparisons"] = {"big": inside, "small": inside}
        if run["role"] == "distilled":
            run["teacher_model"] = "big resnet/mini + small resnet/tiny"
            debias = dict.fromkeys((run["debias"], "erm"))
            run["teacher_debias"] = "+".join(debias)
        rows.append(run)
    synthetic_study.write(folder, study | {"runs": rows})
    synthetic_study.close(folder)
    return folder


COUNTS = synthetic_study.COUNTS


def test_each_teacher_is_a_comparison_and_so_is_their_mean(folder):
    comparisons = records.read(folder).comparisons()
    told = [(c.debias, c.pair) for c in comparisons]
    assert told == [
        ("erm", "big resnet/mini → resnet/tiny"),
        ("erm", "small resnet/tiny → resnet/tiny"),
        ("erm", "mean of big, small → resnet/tiny"),
        ("group_dro", "big resnet/mini → resnet/tiny"),
        ("erm → group_dro", "small resnet/tiny → resnet/tiny"),
        ("group_dro+erm → group_dro", "mean of big, small → resnet/tiny"),
    ]
    assert len({*records.labels(comparisons)}) == 6


def test_differences_are_those_from_each_and_from_the_mean(folder):
    finished = records.read(folder)
    comparisons = finished.comparisons()
    big, small, mean = headline.lines(finished, comparisons, *METRIC)[3:]
    values = [finished.values(c.runs["teacher"], *METRIC) for c in comparisons[3:]]
    np.testing.assert_allclose(values[1], SMALL + 0.01 * np.arange(6))
    np.testing.assert_allclose(values[2], (values[0] + values[1]) / 2)
    mine = finished.values(comparisons[3].runs["distilled"], *METRIC)
    for line, value in zip((big, small, mean), values):
        assert math.isclose(line.estimates["distillability"].value, (mine - value).mean())
        assert line.estimates["contribution"] == big.estimates["contribution"]
        assert line.corrected["contribution"] == big.corrected["contribution"]
    for line, name in zip((big, small, mean), ("big", "small", "mean of big, small")):
        assert f"erm · {name}" in line.against
    assert big.verdict == "lost" and small.verdict == "inconclusive"  # it gained nothing itself
    assert mean.sees_attributes == "unknown"
    assert headline.tests(comparisons) == 2 * (3 + 1)
    assert headline.overall(finished, comparisons, *METRIC)[1] == 2  # the mean says no more


def test_the_page_names_the_teachers_and_maps_each(folder):
    page = html.render(records.read(folder))
    for text in ("big resnet/mini → resnet/tiny", "mean of big, small → resnet/tiny"):
        assert text in page
    assert page.count("in the mean of its teachers and") == 2
    assert page.count("CKA of teacher and student:") == 4  # two teachers of two students
    assert "8 tests in a table" in page


def test_records_name_the_teachers_of_distilled_runs_alone(folder):
    (folder / "records.csv").write_text(records.as_csv(records.read(folder)))
    table = pd.read_csv(folder / "records.csv", keep_default_na=False)
    assert tuple(table.columns) == (*records.COLUMNS, "teachers")
    by_role = table.groupby("role")["teachers"].unique()
    assert by_role["teacher"].tolist() == by_role["baseline"].tolist() == [""]
    told = "big: teacher erm  seed0; small: teacher small erm  seed0"
    assert told in by_role["distilled"].tolist()


def test_a_teacher_that_is_missing_is_named(folder):
    from fairkd_jax import files

    about = files.read_sealed(folder / "study.json")
    lost = next(r["run"] for r in about["runs"] if "teacher small" in r["run"])
    about["runs"] = [r for r in about["runs"] if r["run"] != lost]
    synthetic_study.write(folder, about)
    with pytest.raises(ValueError, match=f"no teacher to be compared with.*{lost}"):
        records.read(folder)
