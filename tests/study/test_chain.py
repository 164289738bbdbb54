"""Chains of rungs between teachers and student: what is planned, shared, seeded and refused."""

import pytest

from fairkd_jax.config import (
    Compare,
    Data,
    Experiment,
    Mix,
    Optim,
    Role,
    Rung,
    Study,
    Teacher,
    Train,
    as_config_dict,
    as_dict,
    parse,
    update,
)
from fairkd_jax.study import chain, check, plan

pytestmark = pytest.mark.quick

RESNET = {"name": "resnet", "preset": "tiny"}
SMALL, MIDDLE, BIG = (RESNET | {"depths": depths} for depths in ((1, 1), (1, 2), (2, 2)))
TRAIN = Train(steps=6, batch_size=16)
ASSISTANT = {"model": MIDDLE, "debias": {"name": "erm"}, "distill": {"name": "hidden"}}
CHAINS = (
    {"label": "direct", "rungs": ()},
    {"label": "assistant", "rungs": (ASSISTANT,)},
    {"label": "1 generation", "rungs": ({"rounds": 1},)},
    {"label": "3 generations", "rungs": ({"rounds": 3},)},
)


def experiment(**changes) -> Experiment:
    asked = Experiment(
        data=Data(set={"name": "colored_digits", "image_size": 8}),
        teacher=Role(BIG, train=TRAIN),
        student=Role(SMALL, Optim(learning_rate=0.5), TRAIN),
        debias={"name": "group_dro"},
        distilled_debias={"name": "jtt"},
        compare=Compare(first="stem", second="stem", examples=32),
    )
    return update(asked, changes)


def planned(rungs=(), **changes) -> list[plan.Run]:
    return plan.runs(Study(seeds=1, experiment=experiment(rungs=rungs, **changes)))


def of(runs: list[plan.Run], role: str) -> list[plan.Run]:
    return [run for run in runs if run.role == role]


def taught_by(run: plan.Run) -> str:
    """The identity of the net that taught a run's."""
    return (
        run.net.inputs.get("teacher") or run.net.inputs["teacher_logits"].inputs["net"]
    ).identity


def test_each_net_is_taught_by_the_one_before_it_and_compared_with_the_teacher():
    runs = planned((ASSISTANT, {"rounds": 2}))
    assert [run.role for run in runs] == ["teacher", "baseline", *["rung"] * 3, "distilled"]
    teacher, _, *below = runs
    for before, run in zip([teacher, *below], below):
        assert taught_by(run) == before.net.identity
        assert run.teachers == {"": teacher} and run.evaluations.keys() == {"in_domain/test"}
        assert run.comparisons["teacher"].inputs["first"] == teacher.net
    for place, run in enumerate(below):
        assert run.rungs == tuple(below[:place])
    assert [run.name.split()[:2] for run in below[:2]] == [["rung", "1"], ["rung", "2"]]
    assert below[-1].baseline is runs[1]


def test_what_a_rung_leaves_out_is_the_students():
    first, second = of(planned((ASSISTANT, {"train": {"steps": 9}})), "rung")
    assert (first.model, second.model) == (MIDDLE, SMALL)
    assert first.net.config.optim == second.net.config.optim == Optim(learning_rate=0.5)
    assert (first.net.config.train.steps, second.net.config.train.steps) == (6, 9)
    assert (first.debias["name"], second.debias["name"]) == ("erm", "jtt")
    assert "teacher" in first.net.inputs and "mistakes" not in first.net.inputs
    assert {*second.net.inputs} == {"teacher_logits", "mistakes"}  # a method of several stages
    scope = of(planned({"mix": {"scope": "task"}}), "rung")[0].net.config.mix
    assert scope == Mix(scope="task")


def test_the_nets_of_a_chain_have_seeds_of_their_own_and_the_student_keeps_its():
    study = Study(seeds=3, experiment=experiment(rungs=({"rounds": 2},), seed=7))
    runs = plan.runs(study)
    seeds = [run.net.config.seed for run in of(runs, "rung")]
    assert seeds == [s + k * chain.APART for s in (7, 8, 9) for k in (1, 2)]
    assert [run.net.config.seed for run in of(runs, "distilled")] == [7, 8, 9]
    assert of(runs, "rung")[0].net.inputs["mistakes"].inputs["net"].config.seed == seeds[0]


def test_chains_of_an_axis_share_what_is_the_same_and_change_nothing_else():
    runs = plan.runs(Study(seeds=1, experiment=experiment(), axes={"chain": CHAINS}))
    nets = {run.net.identity for run in runs}
    assert len(nets) == 2 + 1 + 2 + 2 + 3  # the first generation is that of both chains
    direct = [run.net.identity for run in runs if run.axes["chain"] == "direct"]
    assert direct == [run.net.identity for run in planned()]
    last = {run.axes["chain"]: run for run in of(runs, "distilled")}
    one, three = (last[name].rungs for name in ("1 generation", "3 generations"))
    assert len(one) == 1 and len(three) == 3 and one[0].net.identity == three[0].net.identity
    assert {run.teacher.net.identity for run in last.values()} == {runs[0].net.identity}


def test_several_teachers_teach_the_first_rung_alone():
    teachers = {"a": Teacher(BIG, train=TRAIN), "b": Teacher(BIG, train=TRAIN, seed=1)}
    runs = planned({"rounds": 2}, teacher={}, teachers=teachers, **{"mix.teachers": {"a": 2.0}})
    first, second, student = [*of(runs, "rung"), *of(runs, "distilled")]
    assert first.net.config.mix.teachers == {"a": 2.0, "b": 1.0}
    assert second.net.config.mix == student.net.config.mix == Mix()
    tables = {"teacher.a_logits", "teacher.b_logits", "mistakes"}
    assert {*first.net.inputs} == tables and "teacher_logits" in student.net.inputs
    assert {*student.comparisons} == {"a", "b"}


def test_a_rung_may_start_from_the_net_that_teaches_it():
    same = {"student.model": BIG, "transfer": {}}
    assert len(of(planned({"rounds": 12, "transfer": {}}, **same), "rung")) == 12  # in no time
    first, second, student = planned(({"transfer": {}}, {}), **same)[2:]
    assert first.net.inputs["init"].inputs["net"].identity == taught_by(first)
    assert "init" not in second.net.inputs  # fresh unless it says so itself
    assert student.net.inputs["init"].inputs["net"] == second.net


def test_configs_come_back_and_smoke_shrinks_rungs_of_axes_too():
    long = {"rounds": 5, "train": {"steps": 90, "eval_every": 50}}
    rungs = (Rung(MIDDLE, train=Train(steps=70)), {})
    axes = {"chain": ({"label": "long", "rungs": (long,)},), "rungs": ((), (long,))}
    study = Study(experiment=experiment(rungs=rungs), axes=axes)
    again = parse(Study, as_config_dict(study))
    assert as_dict(again) == as_dict(study) and again.experiment.rungs[1] == Rung()
    small = plan.smoke(again)
    assert small.experiment.rungs[0].train.steps == 4 and not small.experiment.rungs[1].train
    chained, none, listed = (*small.axes["chain"], *small.axes["rungs"])
    assert none["rungs"] == () and chained["label"] == "long"
    for value in (chained, listed):
        [rung] = value["rungs"]
        assert (rung.rounds, rung.train.steps, rung.train.eval_every) == (2, 4, 2)
    assert "rungs" not in as_dict(experiment())


@pytest.mark.parametrize(
    "rungs, message",
    [
        (({"rounds": 0},), r"rungs.0.rounds = 0: .*1 or more"),
        (({"rounds": "2"},), r"rungs.0.rounds = '2': expected a int"),
        (({}, {"modle": {}}), r"key in config.rungs.1: 'modle'. Did you mean 'model'"),
        (({"model": 3},), r"rungs.0.model = 3: expected a dict"),
        (({"train": {"step": 3}},), r"key in config.rungs.0.train: 'step'.*'steps'"),
        (3, r"config.rungs = 3: expected a tuple"),
        (({"model": RESNET | {"preset": "huge"}},), r"preset of model 'resnet': 'huge'"),
        (({"model": RESNET | {"widht": 3}},), r"'widht'"),
        (({"debias": {"name": "jtx"}},), r"debias plugin 'jtx'"),
        (
            ({"model": {"name": "bert", "pretrained": "minilm"}, "transfer": {}},),
            r"rungs.0 starts from minilm and, by.*leave out rungs.0.model.pretrained",
        ),
        (({}, {"mix": {"teachers": {"a": 1.0}}}), r"rungs.1.mix.teachers = .*only teacher"),
        (({"transfer": {"teacher": "a"}},), r"teacher in transfer.teacher: 'a'"),
    ],
)
def test_what_cannot_be_is_refused_before_compute(rungs, message):
    with pytest.raises(ValueError, match=message):
        check.check(Study(seeds=1, experiment=experiment(rungs=rungs)))


def test_weights_and_seeds_that_would_be_lost_are_refused():
    teachers = {"a": Teacher(BIG, train=TRAIN), "b": Teacher(BIG, train=TRAIN, seed=chain.APART)}
    named = {"teacher": {}, "teachers": teachers}
    with pytest.raises(ValueError, match=r"mix.teachers = .*no effect.*rungs.0.mix"):
        planned(({"mix": {}},), **named, **{"mix.teachers": {"a": 2.0}})
    with pytest.raises(ValueError, match=r"seed 100000 of 'teacher b .*that of a rung too"):
        check.check(Study(seeds=1, experiment=experiment(rungs=({},), **named)))
    with pytest.raises(ValueError, match=r"rungs.0.rounds: rungs is a list, to be given whole"):
        experiment(**{"rungs.0.rounds": 2})
