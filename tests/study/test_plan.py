"""Plans: axes and seeds become runs, shared stages are planned once, names are checked."""

import json

import pytest

from fairkd_jax.config import (
    Compare,
    Data,
    Experiment,
    Optim,
    Stage,
    Study,
    Train,
    TrainStage,
    as_config_dict,
    as_dict,
    parse,
    update,
)
from fairkd_jax.registry import UnknownName
from fairkd_jax.study import plan

pytestmark = pytest.mark.quick


EXAMPLES = 1078  # of coloured digits to train on


def study(**changes):
    return Study(**({"seeds": 2, "axes": {"debias": ({"name": "erm"}, {"name": "jtt"})}} | changes))


def kinds(stages):
    return [s.kind for s in stages]


def test_every_distilled_run_has_its_teacher_and_its_baseline():
    runs = plan.runs(study())
    assert len(runs) == 2 * 2 * 3
    for run in runs:
        if run.role == "distilled":
            assert (run.teacher.role, run.baseline.role) == ("teacher", "baseline")
            seeds = {r.experiment.seed for r in (run, run.teacher, run.baseline)}
            assert seeds == {run.experiment.seed}
            assert run.baseline.net.config.model == run.net.config.model
            assert run.baseline.net.config.debias == run.net.config.debias


def test_a_stage_comes_once_and_after_its_inputs():
    stages = plan.stages(plan.runs(study()))
    names = [s.identity for s in stages]
    assert len(set(names)) == len(names)
    for i, stage in enumerate(stages):
        assert all(names.index(x.identity) < i for x in stage.inputs.values())


def test_an_axis_that_concerns_the_student_alone_trains_no_second_teacher():
    axes = {"mix.scope": ("total", "task"), "distill": (({"name": "logits"},),)}
    trained = [s for s in plan.stages(plan.runs(study(axes=axes, seeds=1))) if s.kind == "train"]
    # The teacher, which by default is the baseline too, and a distilled student for each scope.
    assert len(trained) == 1 + 2


def test_the_teacher_answers_once_where_only_logits_are_read_and_lives_otherwise():
    def inputs(**experiment):
        runs = plan.runs(Study(seeds=1, experiment=Experiment(**experiment)))
        return next(r for r in runs if r.role == "distilled").net.inputs

    assert set(inputs()) == {"teacher_logits"}
    assert set(inputs(distill=({"name": "hidden"},))) == {"teacher"}
    assert set(inputs(debias={"name": "mixup"})) == {"teacher"}
    assert set(inputs(data=images(flip=True))) == {"teacher"}
    assert not inputs(distill=({"name": "none"},))
    assert not inputs(distill=({"name": "none"},), data=images(crop=1))


def images(**options) -> Data:
    return Data(views={"image": {"name": "image"} | options})


def test_the_identification_of_jtt_is_shared_by_baseline_and_distilled():
    runs = {r.role: r for r in plan.runs(study(seeds=1, axes={"debias": ({"name": "jtt"},)}))}
    first = runs["baseline"].net.inputs["mistakes"].identity
    assert first == runs["distilled"].net.inputs["mistakes"].identity


def test_identity_depends_on_every_config_value_and_on_inputs_alone():
    base = plan.runs(study(seeds=1))[0].net
    again = Stage(base.kind, parse(TrainStage, json.loads(json.dumps(as_dict(base.config)))))
    assert again.identity == base.identity
    assert base.change({"train.steps": 7}).identity != base.identity
    assert base.change({"seed": 7}).identity != base.identity
    assert base.hang(init=again).identity != base.identity
    view = "data.views.image"
    assert base.change({view: {"name": "image", "crop": 1}}).identity != base.identity
    # an option that older configs did not have, as they have it
    said = base.change({view: {"name": "image", "crop": 0, "flip": False}})
    assert said.identity == base.identity


def test_axis_values_override_several_keys_and_carry_a_label():
    axes = {
        "pair": (
            {"label": "far", "teacher.model.preset": "mini", "student.model.preset": "tiny"},
            {"label": "near", "teacher.model.preset": "tiny", "student.model.preset": "tiny"},
        )
    }
    found = list(plan.experiments(Study(seeds=1, axes=axes)))
    assert [labels["pair"] for _, labels in found] == ["far", "near"]
    assert [e.teacher.model["preset"] for e, _ in found] == ["mini", "tiny"]


def test_a_config_dict_comes_back_as_the_study_it_was_made_from():
    original = Study(
        seeds=4,
        experiment=Experiment(compare=Compare(first="stem"), seed=3),
        axes={"mix.scope": ("total", "task")},
    )
    assert as_dict(parse(Study, as_config_dict(original))) == as_dict(original)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"experimnt": {}}, r"key in config: 'experimnt'.*'experiment'"),
        ({"experiment": {"mix": {"kd_wieght": 1.0}}}, r"config.experiment.mix.*'kd_weight'"),
        ({"experiment": {"teacher": {"train": {"steps": "many"}}}}, r"train.steps = 'many'.*int"),
        ({"seeds": 2.5}, r"seeds = 2.5.*int"),
        ({"experiment": {"optim": 3}}, r"key in config.experiment: 'optim'"),
        ({"experiment": {"mix": 3}}, r"config.experiment.mix = 3.*scope"),
    ],
)
def test_wrong_configs_name_the_place_and_the_choices(wrong, message):
    with pytest.raises(ValueError, match=message):
        parse(Study, wrong)


def test_a_number_that_is_left_to_the_optimizer_may_be_set_by_a_flag():
    config = as_config_dict(Experiment())
    assert config.student.optim.get_type("b1") is float  # flags set only what has a type
    config.student.optim.b1 = 0.8
    assert parse(Experiment, config).student.optim == Optim(b1=0.8)
    assert parse(Experiment, config).teacher.optim == Optim()


def test_an_override_of_a_key_that_is_not_there_is_refused():
    with pytest.raises(UnknownName, match=r"'learning_rat'.*'learning_rate'"):
        update(Experiment(), {"student.optim.learning_rat": 1.0})


def test_epochs_are_the_steps_that_they_stand_for():
    data = {"data.set": {"name": "colored_digits", "image_size": 8}, "student.train.batch_size": 32}
    runs = []
    for train in ({"student.train.epochs": 2}, {"student.train.steps": -(-2 * EXAMPLES // 32)}):
        full = study(experiment=update(Experiment(), data | train), seeds=1)
        runs.append([run.net.identity for run in plan.runs(full)])
        assert plan.smoke(full).experiment.student.train.epochs == 0
    assert runs[0] == runs[1]


def test_smoke_keeps_every_stage_kind():
    full = study(experiment=Experiment(compare=Compare(first="stem", second="stem")))
    small = plan.smoke(full)
    assert small.seeds == 1 and small.experiment.student.train.steps < 10
    assert set(kinds(plan.stages(plan.runs(small)))) == set(kinds(plan.stages(plan.runs(full))))


def test_stages_share_numbers_in_one_place():
    assert Optim() == parse(Optim, {}) and Train() == parse(Train, {})
