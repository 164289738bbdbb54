"""A report on chains: what each net reaches, against the teacher and the one before."""

import numpy as np
import pandas as pd
import pytest
import synthetic_study

from fairkd_jax import files
from fairkd_jax.registry import UnknownName
from fairkd_jax.report import chain, html, records

pytestmark = pytest.mark.quick

METRIC = ("in_domain/test", "worst_group_accuracy", "")
WORST = (0.65, 0.6)  # of the rungs of Group DRO, by seed a little more
COUNTS = synthetic_study.COUNTS


@pytest.fixture
def folder(tmp_path):
    """A study in which Group DRO's students are taught over two rungs, the others directly."""
    folder = tmp_path / "studies" / "synthetic"
    study, rows = synthetic_study.build(folder, seeds=6), []
    for run in study["runs"]:
        if run["role"] == "distilled" and run["debias"] == "group_dro":
            rungs = []
            for place, mean in enumerate(WORST, 1):
                name, worst = f"rung {place} seed{run['seed']}", mean + 0.01 * run["seed"]
                evaluations = {
                    f"{data}/test": synthetic_study._evaluate(folder, name, data, worst, COUNTS)
                    for data in ("in_domain", "shifted")
                }
                told = {"run": name, "role": "rung", "model": "resnet/between"}
                told |= {"baseline_run": "", "rungs": [*rungs], "evaluations": evaluations}
                rows.append(run | told | {"stage": synthetic_study._train(folder, name, worst)})
                rungs.append(name)
            run = run | {"rungs": rungs}
        rows.append(run)
    synthetic_study.write(folder, study | {"runs": rows})
    synthetic_study.close(folder)
    return folder


def test_differences_are_to_the_teacher_and_to_the_net_before(folder):
    finished = records.read(folder)
    comparisons = finished.comparisons()
    [(label, links)] = chain.tables(finished, comparisons, *METRIC)
    assert label == "group_dro"
    assert [link.name for link in links] == ["teacher", "rung 1", "rung 2", "distilled"]
    models = ["resnet/mini", *["resnet/between"] * 2, "resnet/tiny"]
    assert [link.model for link in links] == models
    ends = [finished.values(comparisons[1].runs[r], *METRIC) for r in ("teacher", "distilled")]
    rungs = [mean + 0.01 * np.arange(6) for mean in WORST]
    values = [ends[0], *rungs, ends[1]]
    assert links[0].to_teacher is links[0].to_before is None
    for i, link in enumerate(links):
        assert link.value.value == pytest.approx(values[i].mean())
        if i:
            assert link.to_teacher.value == pytest.approx((values[i] - values[0]).mean())
            assert link.to_before.value == pytest.approx((values[i] - values[i - 1]).mean())
    assert links[1].to_teacher == links[1].to_before
    assert np.isnan(links[2].to_before.low) and links[2].to_before.n == 6  # rungs do not differ


def test_the_page_shows_the_chain_and_the_records_the_place_of_each_rung(folder):
    page = html.render(records.read(folder))
    assert page.count("Along the chain: worst-group accuracy") == 1
    assert page.count("<h3>Along the chain</h3>") == 1
    assert page.count("by way of 2 rungs.") == 1
    assert page.count("CKA of teacher and student: group_dro, rung 2") == 1
    (folder / "records.csv").write_text(records.as_csv(records.read(folder)))
    table = pd.read_csv(folder / "records.csv", keep_default_na=False, dtype={"rung": str})
    assert tuple(table.columns) == (*records.COLUMNS, "rung")
    places = table.groupby("role")["rung"].unique()
    assert places["rung"].tolist() == ["1", "2"] and places["distilled"].tolist() == [""]
    assert set(table[table["role"] == "rung"]["teacher_model"]) == {"resnet/mini"}


def test_a_study_without_rungs_says_nothing_of_them(tmp_path):
    folder = tmp_path / "studies" / "synthetic"
    synthetic_study.build(folder, seeds=2)
    page = html.render(records.read(folder))
    assert "chain" not in page and "rung" not in page
    assert "rung" not in records.as_csv(records.read(folder))


def test_a_rung_that_is_missing_or_none_is_named(folder):
    about = files.read_sealed(folder / "study.json")
    runs = [run for run in about["runs"] if run["run"] != "rung 1 seed0"]
    synthetic_study.write(folder, about | {"runs": runs})
    with pytest.raises(ValueError, match=r"no rung to be compared.*'rung 1 seed0'"):
        records.read(folder)
    about["runs"][0]["role"] = "rugn"
    synthetic_study.write(folder, about)
    with pytest.raises(UnknownName, match=r"'rugn'. Did you mean 'rung'"):
        records.read(folder)
