"""What is ready when, in which order, and what is left out where a stage is lost."""

import random

import pytest

from fairkd_jax.config import Compare, Data, Experiment, Role, Stage, Study, Train
from fairkd_jax.study import cost, plan
from fairkd_jax.study.agenda import Agenda


def stages(**inputs: str) -> dict[str, Stage]:
    """Stages by letter, each with the letters of its inputs."""
    made: dict[str, Stage] = {}
    for name, before in inputs.items():
        made[name] = Stage("train", name, {b: made[b] for b in before})
    return made


def agenda(made: dict[str, Stage], costs: dict[str, float], monkeypatch) -> Agenda:
    monkeypatch.setattr(cost, "of", lambda stage: costs[stage.config])
    return Agenda(made.values(), cost.remaining({s.identity: s for s in made.values()}))


def names(found: list[Stage]) -> list[str]:
    return [one.config for one in found]


@pytest.mark.quick
def test_the_longest_remaining_path_comes_first_and_equals_as_they_came(monkeypatch):
    made = stages(a="", b="", c="a", d="b", e="", f="cd")
    costs = {"a": 1.0, "b": 1.0, "c": 5.0, "d": 2.0, "e": 10.0, "f": 1.0}
    plan = agenda(made, costs, monkeypatch)
    assert names(plan.ready()) == ["e", "a", "b"]  # 10, 1 + 5 + 1, 1 + 2 + 1
    assert plan.remaining(made["a"]) == 7.0
    plan.take(made["e"])
    plan.take(made["a"])
    plan.finish(made["a"])
    assert names(plan.ready()) == ["c", "b"]
    plan.take(made["c"])
    plan.give_back(made["c"])
    assert names(plan.ready()) == ["c", "b"] and len(plan) == 4


@pytest.mark.quick
def test_what_waits_for_a_lost_stage_leaves_and_the_rest_goes_on(monkeypatch):
    made = stages(a="", b="", c="a", d="ab", e="d", f="b")
    plan = agenda(made, dict.fromkeys(made, 1.0), monkeypatch)
    plan.take(made["a"])
    assert names(plan.drop(made["a"])) == ["c", "d", "e"]
    plan.finish(plan.take(made["b"]))
    assert names(plan.ready()) == ["f"] and len(plan) == 1


@pytest.mark.quick
def test_inputs_that_are_done_are_not_waited_for(monkeypatch):
    made = stages(a="", b="a", c="b")
    left = {k: made[k] for k in "bc"}
    plan = agenda(left, dict.fromkeys(made, 1.0), monkeypatch)
    assert names(plan.ready()) == ["b"] and plan.remaining(made["b"]) == 2.0


@pytest.mark.quick
def test_any_order_of_ends_runs_all_after_their_inputs(monkeypatch):
    rng = random.Random(0)
    for _ in range(20):
        letters = [f"s{i}" for i in range(12)]
        made: dict[str, Stage] = {}
        for i, name in enumerate(letters):
            before = rng.sample(letters[:i], min(i, rng.randrange(3)))
            made[name] = Stage("train", name, {b: made[b] for b in before})
        plan = agenda(made, {k: rng.random() for k in made}, monkeypatch)
        running, done = [], []
        while plan or running:
            for one in plan.ready()[: 3 - len(running)]:
                running.append(plan.take(one))
            ended = running.pop(rng.randrange(len(running)))
            if rng.random() < 0.3:
                plan.give_back(ended)
                continue
            assert all(before.config in done for before in ended.inputs.values())
            done.append(ended.config)
            plan.finish(ended)
        assert sorted(done) == sorted(letters)


def study(steps: int = 30, preset: str = "tiny", debias: str = "erm") -> Study:
    train = Train(steps=steps, batch_size=32)
    small = Role({"name": "resnet", "preset": "tiny"}, train=train)
    return Study(
        seeds=2,
        experiment=Experiment(
            data=Data(set={"name": "colored_digits", "image_size": 8}),
            teacher=Role({"name": "resnet", "preset": preset}, train=train),
            student=small,
            debias={"name": debias},
            compare=Compare(first="stem", second="stem", examples=64),
        ),
    )


def trained(asked: Study) -> dict[str, float]:
    """Operations of the training of each role, of the first seed; of others they are the same."""
    found: dict[str, float] = {}
    for run in plan.runs(asked):
        told = cost.of(run.net) - cost.ALONE
        assert found.setdefault(run.role, told) == told
    return found


def test_costs_follow_model_steps_and_method():
    erm = trained(study())
    assert erm["teacher"] == erm["baseline"] == erm["distilled"]  # from a table, no teacher is live
    assert trained(study(steps=90))["teacher"] == pytest.approx(3 * erm["teacher"])
    assert trained(study(preset="mini"))["teacher"] > 3 * erm["teacher"]
    assert trained(study(debias="lff"))["teacher"] == pytest.approx(2 * erm["teacher"])
    planned = plan.stages(plan.runs(study()))
    by_kind = {one.kind: cost.of(one) - cost.ALONE for one in planned}
    assert by_kind.keys() == {"train", "table", "evaluate", "compare"}
    assert all(told > 0 for told in by_kind.values())
    paths = cost.remaining({one.identity: one for one in planned})
    for one in planned:
        for before in one.inputs.values():
            assert paths[before.identity] >= cost.of(before) + paths[one.identity]
