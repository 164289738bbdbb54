"""What tuning draws, trains, chooses and hands to a study; it reads no test split."""

import dataclasses
import json
import math

import jax
import pandas as pd
import pytest

from fairkd_jax import files, sharding
from fairkd_jax.config import Data, Experiment, Role, Study, Train
from fairkd_jax.registry import UnknownName
from fairkd_jax.study import plan, tune

NET = {"name": "resnet", "preset": "tiny"}
TRAIN = Train(steps=4, batch_size=16, select="val_worst_group", eval_every=2)
FOCAL, GROUP_DRO = {"name": "focal", "gamma": 1.0}, {"name": "group_dro"}
RATES = "teacher.optim.learning_rate"


def study(**changes) -> Study:
    experiment = Experiment(
        data=Data(set={"name": "colored_digits", "image_size": 8}),
        teacher=Role(NET, train=TRAIN),
        student=Role(NET, train=TRAIN),
    )
    made = Study(
        "tuned", experiment, {"debias": (FOCAL, GROUP_DRO)}, 2, search={RATES: (1e-3, 0.1)}
    )
    return dataclasses.replace(made, **changes)


def test_settings_differ_are_always_the_same_and_begin_with_the_config():
    lone = study(axes={"debias": (FOCAL,)})
    asked, again = (tune.trials(lone, "teacher", number, 1) for number in (5, 8))
    assert asked[0].changes == {}
    assert [t.changes for t in asked] == [t.changes for t in again[:5]]  # more go on from fewer
    assert len({t.runs[0].net.identity for t in again}) == 8 == len(again)
    values = {"debias.gamma": (0.5, 1.0, 2.0, 5.0), RATES: (1e-3, 0.1)}
    assert all(set(t.changes) == set(values) for t in again[1:])
    assert all(v in values[k] for t in again for k, v in t.changes.items())


def test_a_small_space_is_drawn_whole_and_once():
    lone = study(axes={"debias": ({"name": "erm"},)})
    rate = lone.experiment.teacher.optim.learning_rate
    lone = dataclasses.replace(lone, search={RATES: (rate, 0.1, 0.2)})
    changes = [trial.changes for trial in tune.trials(lone, "teacher", 9, 1)]
    assert changes[0] == {} and sorted(c[RATES] for c in changes[1:]) == [0.1, 0.2]


def test_no_test_split_and_no_seed_of_the_study_is_in_a_trial():
    lone = study(axes={"debias": (FOCAL,)})
    runs = [run for trial in tune.trials(lone, "teacher", 3, 2) for run in trial.runs]
    assert {stage.config.split for run in runs for stage in run.evaluations.values()} == {"val"}
    assert {run.role for run in runs} == {"teacher"} and not any(r.comparisons for r in runs)
    assert {run.experiment.seed for run in runs} == {1000, 1001}
    assert not {s.identity for s in plan.stages(runs)} & {
        s.identity for s in plan.stages(plan.runs(lone))
    }


@pytest.mark.parametrize(
    ("changes", "role", "error", "words"),
    [
        ({"axes": {}}, "teacher", ValueError, "needs one"),
        ({"search": {RATES: ()}}, "teacher", ValueError, "search.teacher.optim.learning_rate"),
        ({"search": {"teacher.optim.rate": (1,)}}, "teacher", UnknownName, "rate"),
        ({}, "distilled", UnknownName, "baseline"),
        ({"experiment": Experiment(teacher=Role(NET))}, "teacher", ValueError, "'last'"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_compute(changes, role, error, words):
    with pytest.raises(error, match=words):
        tune.trials(study(**changes), role, 3, 1)


def table(*rows) -> pd.DataFrame:
    columns = ["cell", "trial", "changes", "seed", "rule", "value", "acc_avg"]
    return pd.DataFrame([(*r[:4], "val_worst_group", *r[4:]) for r in rows], columns=columns)


def test_the_best_mean_is_chosen_and_never_a_trial_that_diverged():
    found = tune.choose(
        table(
            ("a", 0, "{}", 0, 0.5, 0.9),
            ("a", 0, "{}", 1, 0.5, 0.9),
            ("a", 1, "x", 0, 0.9, 0.9),
            ("a", 1, "x", 1, math.nan, math.nan),
            ("a", 2, "y", 0, 0.4, 0.8),
            ("a", 2, "y", 1, 0.6, 0.8),  # as good, with a lower average
            ("b", 0, "{}", 0, 0.1, 0.5),
            ("b", 1, "z", 0, 0.2, 0.5),
        )
    )
    assert [*found["cell"]] == ["a", "b"]
    assert [*found["trial"]] == [0, 1]
    assert [*found["untuned"]] == [0.5, 0.1]


def test_a_study_takes_what_was_chosen_for_the_values_of_its_axis(tmp_path):
    chosen = {"focal": {"debias.gamma": 5.0, RATES: 0.1}, "group_dro": {}}
    path, asked = tmp_path / "tuned.json", study(seeds=1)
    files.write_json(path, {"study": "tuned", "chosen": chosen})
    teachers = [r for r in plan.runs(tune.tuned(asked, path)) if r.role == "teacher"]
    by_name = {run.debias["name"]: run for run in teachers}
    assert (
        by_name["focal"].debias["gamma"] == 5.0 and by_name["focal"].how.optim.learning_rate == 0.1
    )
    untouched = next(r for r in plan.runs(asked) if r.debias["name"] == "group_dro")
    assert by_name["group_dro"].net.identity == untouched.net.identity
    with pytest.raises(ValueError, match=r"none\.json is no file that fairkd-tune wrote"):
        tune.tuned(asked, tmp_path / "none.json")
    with pytest.raises(ValueError, match="not 'other'"):
        tune.tuned(study(name="other"), path)
    with pytest.raises(UnknownName, match="lff"):
        tune.tuned(study(axes={"debias": ({"name": "lff"},)}), path)


def test_trials_are_trained_scored_and_written_and_go_on(tmp_path):
    lone = study(axes={"debias": (FOCAL,)})
    asked = tune.trials(lone, "baseline", 2, 1)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    found = tune.run(lone, asked, tmp_path, mesh)
    assert len(found) == 2 and found["value"].between(0, 1).all()
    told = json.loads(tune.write(lone, found, tmp_path).read_text())
    assert [*told["chosen"]] == ["focal"] and told["trials"] == 2
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("stages/*/done")}
    assert tune.run(lone, asked, tmp_path, mesh).equals(found)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.glob("stages/*/done")}
