"""A decision as an axis of a study: nets are shared, evaluations differ, the page says so."""

import dataclasses
import json
import re

import jax
import pandas as pd
import pytest
from conftest import ROOT

from fairkd_jax import sharding
from fairkd_jax.config import Data, Evaluation, Experiment, Role, Study, Train, parse, update
from fairkd_jax.report import html
from fairkd_jax.study import about, check, execute, plan, stored

DIGITS = {"name": "colored_digits", "image_size": 8}
THRESHOLD = {"name": "threshold", "objective": "balanced_accuracy_score"}
AXES = {"decide": ({"label": "likeliest", "decide": None}, THRESHOLD)}
TRAIN = Train(steps=4, batch_size=16, log_every=2, checkpoint_every=2)


def study(axes=None, **changes) -> Study:
    role = Role(train=TRAIN)
    experiment = Experiment(data=Data(set=DIGITS), teacher=role, student=role)
    axes = AXES if axes is None else axes
    return Study("decided", update(experiment, changes), axes, seeds=1)


def identities(runs, kind):
    return {one.identity for one in plan.stages(runs) if one.kind == kind}


@pytest.mark.quick
def test_nets_are_shared_and_evaluations_without_a_decision_are_as_they_were():
    plain, both = plan.runs(study({})), plan.runs(study())
    assert [run.axes["decide"] for run in both] == ["likeliest"] * 3 + ["threshold"] * 3
    assert len({run.name for run in both}) == 6
    assert identities(plain, "train") == identities(both, "train")
    assert identities(plain, "evaluate") < identities(both, "evaluate")
    for run in both[3:]:
        (one,) = run.evaluations.values()
        table = one.inputs["calibration"]
        assert table.inputs["net"].identity == one.inputs["net"].identity == run.net.identity
        assert (table.config.columns, table.config.split) == (("log_probs",), "val")
        other = dataclasses.replace(one, config=dataclasses.replace(one.config, seed=1))
        assert other.identity != one.identity  # it draws
        assert parse(type(one.config), stored.about(one)["config"]) == one.config
    about = stored.about(next(iter(both[0].evaluations.values())))
    assert {*about["config"]} == {"set", "split", "batch_size"}


@pytest.mark.quick
def test_code_of_a_decision_from_outside_is_part_of_what_an_evaluation_reads(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "outside" / "project")
    run, *_ = check.check(study({}, decide={"name": "my_project.decisions.balanced"}))
    (one,) = run.evaluations.values()
    assert "code my_project.decisions.balanced" in one.reads
    assert about._row(run)["decides_by_attributes"] is False


@pytest.mark.quick
def test_what_cannot_be_decided_is_told_before_any_compute():
    digits = {"decide": THRESHOLD, "data.set": DIGITS | {"classes": 3}}
    with pytest.raises(ValueError, match=r"two labels; the set has \['0 to 3', "):
        check.check(study({}, **digits))
    alike = {"decide": THRESHOLD, "student.train.validation": "train", "data.set": DIGITS}
    alike["data.set"] = DIGITS | {"correlation": 1.0}
    with pytest.raises(ValueError, match=r"validation split has none of: 0 to 4, green; 5 to 9, r"):
        check.check(study({}, **alike))
    with pytest.raises(ValueError, match=r"unknown decide plugin 'treshold'.*'threshold'"):
        check.check(study({}, decide={"name": "treshold"}))
    with pytest.raises(ValueError, match=r"decide = 'threshold': expected a dict such as"):
        study({}, decide="threshold")
    elsewhere = {"in_domain": Evaluation(), "more": Evaluation(DIGITS | {"classes": 3})}
    with pytest.raises(ValueError, match=r"do not match|reads the attribute"):
        check.check(study({}, decide=THRESHOLD, evaluate=elsewhere))


def test_a_study_compares_what_is_decided_with_the_likeliest(tmp_path):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    asked = study(distill={"name": "none"})  # one net in all roles
    with jax.transfer_guard("disallow"):  # as launchers run
        folder = execute.run(asked, tmp_path, mesh)
    about = json.loads((folder / "study.json").read_text())
    rows, values = {}, {}
    for run in about["runs"]:
        stage = tmp_path / "stages" / run["evaluations"]["in_domain/test"]
        rows[run["role"], run["axes"]["decide"]] = run
        values[run["role"], run["axes"]["decide"]] = json.loads((stage / "result.json").read_text())
    for role in ("teacher", "baseline", "distilled"):
        plain, decided = rows[role, "likeliest"], rows[role, "threshold"]
        assert plain["stage"] == decided["stage"] and "decide" not in plain
        assert decided["decide"] == "threshold" and decided["decides_by_attributes"]
        assert decided["decide_options"]["constraints"] == "equalized_odds"
        one, other = values[role, "likeliest"], values[role, "threshold"]
        assert {*other["decided_by"]} == {"0", "1"} and "decided_by" not in one
        assert one["metrics"]["loss"] == other["metrics"]["loss"]
        assert one["sums"]["predicted"] != other["sums"]["predicted"]
        totals = [[sum(group) for group in each["sums"]["predicted"]] for each in (one, other)]
        assert totals[0] == totals[1] == one["group_counts"]
    words = re.sub(r"<[^>]+>", "", html.write(folder).read_text())
    assert "Labels decided by threshold (constraints equalized_odds, objective balanced" in words
    assert "it reads the attribute of every example that it decides on, in the test too" in words
    assert "decide=threshold1no; to decide: yes" in words  # label, seeds, attributes in training
    assert "decide=likeliest1no\n" in words
    table = pd.read_csv(folder / "report" / "records.csv", keep_default_na=False)
    assert {*table["decide"]} == {"", "threshold"}
    told = execute.table_of_stages(plan.runs(asked), tmp_path)
    assert re.search(r"evaluate .*threshold +calibration, net", told) and "4 done, 0 part" in told
