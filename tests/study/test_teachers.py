"""Several teachers of one student: what is planned, trained once, weighed and refused."""

import json

import jax
import numpy as np
import pytest

from fairkd_jax import config, processes, sharding
from fairkd_jax.config import (
    Compare,
    Data,
    Experiment,
    Mix,
    Role,
    Study,
    Teacher,
    Train,
    Transfer,
    as_config_dict,
    as_dict,
    parse,
    update,
)
from fairkd_jax.registry import UnknownName
from fairkd_jax.study import about, check, plan, stage, stored

RESNET = {"name": "resnet", "preset": "tiny"}
TRAIN = Train(steps=6, batch_size=16, log_every=2, checkpoint_every=2)


def two(**changes) -> Experiment:
    """Teachers of different size, method and seed."""
    experiment = Experiment(
        data=Data(set={"name": "colored_digits", "image_size": 8}),
        teachers={
            "small": Teacher(RESNET, train=TRAIN, debias={"name": "lff"}, seed=10),
            "big": Teacher(RESNET | {"depths": (2, 2)}, train=TRAIN),
        },
        student=Role(RESNET | {"depths": (1, 1)}, train=TRAIN),
        debias={"name": "group_dro"},
        mix=Mix(teachers={"big": 2.0}),
        compare=Compare(first="stem", second="stem", examples=32),
    )
    return update(experiment, changes)


def study(**changes) -> Study:
    return Study(seeds=1, experiment=two(**changes))


def distilled(planned: list[plan.Run]) -> plan.Run:
    return next(run for run in planned if run.role == "distilled")


def test_each_teacher_is_trained_once_and_answers_into_a_table_of_its_own():
    planned = plan.runs(study())
    assert [run.role for run in planned] == ["teacher", "teacher", "baseline", "distilled"]
    student = distilled(planned)
    assert [*student.teachers] == ["big", "small"]
    big, small = (t.net.config for t in student.teachers.values())
    assert (big.debias["name"], small.debias["name"]) == ("group_dro", "lff")
    assert (big.seed, small.seed) == (0, 10)
    tables = {"teacher.big_logits", "teacher.small_logits"}
    assert {*student.net.inputs} == tables and student.net.config.mix.teachers["small"] == 1
    assert student.net.inputs["teacher.big_logits"].inputs["net"] == student.teachers["big"].net
    assert {*student.comparisons} == {"big", "small"} == {*student.baseline.comparisons}
    trained = [one for one in plan.stages(planned) if one.kind == "train"]
    assert len(trained) == 4
    live = distilled(plan.runs(study(distill={"name": "hidden"}))).net
    assert {*live.inputs} == {"teacher.big", "teacher.small"}


def test_weights_are_of_the_student_alone_and_only_where_it_is_distilled():
    weights = ({"label": "even", "mix.teachers": {}}, {"label": "big", "mix.teachers.big": 5.0})
    planned = plan.runs(Study(seeds=1, experiment=two(), axes={"weights": weights}))
    trained = {one.identity for one in plan.stages(planned) if one.kind == "train"}
    assert len(trained) == 3 + 2
    jtt = plan.runs(study(debias={"name": "jtt"}))
    first, second = (run.net.inputs["mistakes"].identity for run in jtt if "mistakes" in
                     run.net.inputs and run.role != "teacher")  # fmt: skip
    assert first == second


def test_axes_reach_into_a_teacher_and_configs_come_back():
    keys = {"teachers.big.model.preset": "mini", "teachers.small.optim.learning_rate": 0.5}
    changed = two(**keys)
    assert changed.teachers["big"].model["preset"] == "mini"
    assert changed.teachers["small"].optim.learning_rate == 0.5
    whole = two(teachers={"only": {"model": RESNET}})
    assert whole.teachers == {"only": Teacher(RESNET)}
    config = as_config_dict(changed)
    config.teachers.big.optim.b1 = 0.8  # as a flag does
    again = parse(Experiment, config)
    assert again.teachers["big"].optim.b1 == 0.8
    assert as_dict(parse(Experiment, as_config_dict(changed))) == as_dict(changed)
    small = plan.smoke(Study(experiment=changed)).experiment
    assert {t.train.steps for t in small.teachers.values()} == {4}


def test_a_study_with_one_teacher_says_nothing_of_several(monkeypatch):
    monkeypatch.setattr(config, "FORMAT", 2)  # as it then was
    told = as_dict(Experiment(transfer=Transfer()))
    assert "teachers" not in told | told["mix"] and "teacher" not in told["transfer"]
    planned = plan.runs(Study(seeds=1, experiment=Experiment(debias={"name": "jtt"})))
    before = ["fc19da0f3ba9", "fc19da0f3ba9", "76fea626d27e"]  # there was `teachers`
    assert [run.net.identity for run in planned] == before


def test_the_student_starts_from_the_teacher_that_is_named():
    start = {"transfer": {"teacher": "small"}, "student.model": RESNET}
    student = distilled(plan.runs(study(**start)))
    assert student.net.inputs["init"].inputs["net"] == student.teachers["small"].net
    with pytest.raises(UnknownName, match=r"transfer.teacher: ''.*big, small"):
        plan.runs(study(transfer={}))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mix.teachers": {"bgi": 1.0}}, r"mix.teachers: 'bgi'. Did you mean 'big'.*small"),
        ({"mix.teachers": {"big": "2"}}, r"mix.teachers.big = '2': expected a float"),
        ({"mix.teachers": {"big": -1.0}}, r"'big': -1.0.*from 0 up"),
        ({"mix.teachers": {"big": 0.0, "small": 0.0}}, "not all 0"),
        ({"teachers.bgi.seed": 3}, r"teachers: 'bgi'. Did you mean 'big'"),
        ({"teachers.big.sed": 3}, r"teachers.big: 'sed'. Did you mean 'seed'"),
        ({"teachers": None}, r"teachers = None: expected a dict by name"),
        ({"teachers": {}}, r"mix.teachers: 'big'. Choices: none"),
        ({"teachers": {"a.b": Teacher()}, "mix": {}}, r"teachers.a.b: a name begins"),
        (
            {"teachers.small": Teacher(RESNET | {"depths": (2, 2)}, train=TRAIN)},
            r"teachers.big and teachers.small are one net, stage \w+.*another seed",
        ),
        ({"teacher.model.preset": "mini"}, r"teacher and teachers \['big', 'small'\].*leave"),
        ({"teachers.big.model.preset": "huge"}, r"preset of model 'resnet': 'huge'"),
    ],
)
def test_what_cannot_be_is_refused_before_compute(changes, message):
    with pytest.raises(ValueError, match=message):
        check.check(study(**changes))


def test_seeds_of_teachers_that_meet_those_of_the_study_are_refused():
    same = {"a": Teacher(RESNET, train=TRAIN), "b": Teacher(RESNET, train=TRAIN, seed=1)}
    apart = two(teachers=same, mix={})
    plan.runs(Study(seeds=1, experiment=apart))
    with pytest.raises(ValueError, match=r"are one net.*there are 2: say at least so many"):
        plan.runs(Study(seeds=2, experiment=apart))


def test_two_teachers_into_one_student_stopped_and_gone_on(tmp_path):
    planned = check.check(study())
    ordered = plan.stages(planned)
    student = distilled(planned)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    path = tmp_path / "stages" / student.net.identity

    def late() -> bool:
        return (path / "config.json").exists()

    with pytest.raises(processes.Interrupted, match="stopped at step 1 of 6"):
        for one in ordered:
            stage.run(one, stage.Place(tmp_path, mesh, late))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("stages/*/done")}
    assert len(before) >= 4 and path / "done" not in before
    place = stage.Place(tmp_path, mesh)
    for one in ordered:
        stage.run(one, place)
    assert {p: p.stat().st_mtime_ns for p in before} == before, "a finished stage was done again"
    assert all(stored.state_of(one, tmp_path) == "done" for one in ordered)
    assert stored.read(tmp_path, student.net.identity).identity == student.net.identity

    def stem(net):
        return np.asarray(jax.tree.leaves(place.net(net)[1]["params"]["stem"])[0])

    assert not np.array_equal(stem(student.net), stem(student.baseline.net))
    folder = about.write_study(study(), planned, tmp_path, seconds=1.0)
    row = json.loads((folder / "study.json").read_text())["runs"][-1]
    assert row["teacher_model"] == "big resnet/tiny + small resnet/tiny"
    assert row["teacher_debias"] == "group_dro+lff"
    assert row["teachers"] == {k: run.name for k, run in student.teachers.items()}
    assert "teacher big group_dro" in row["teachers"]["big"]
