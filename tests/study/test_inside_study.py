"""Stages about the inside of nets: planned, checked before compute, done once, and on the page."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from fairkd_jax import sharding
from fairkd_jax.analyses import Compare
from fairkd_jax.config import (
    Attention,
    Data,
    Experiment,
    Probe,
    Role,
    Stitch,
    Study,
    Train,
    as_dict,
    parse,
)
from fairkd_jax.data import pipeline
from fairkd_jax.models import pretrained
from fairkd_jax.parsing import content_of
from fairkd_jax.registry import UnknownName
from fairkd_jax.report import html
from fairkd_jax.study import anywhere, execute, plan, stage, stored
from fairkd_jax.study.check import check

WORDS = {"wordpiece": {"name": "wordpiece", "length": 24, "vocab_size": 300}}
SET = {"name": "template_nli", "train": 120, "eval": 60}
TRAIN = Train(steps=2, batch_size=8, log_every=2, checkpoint_every=2)


def role(**options) -> Role:
    return Role({"name": "bert", "depth": 1, "width": 8, "heads": 2} | options, train=TRAIN)


def study(**changes) -> Study:
    told = {
        "data": Data(set=SET, views=WORDS),
        "teacher": role(depth=2, width=16),
        "student": role(),
        "attention": Attention(first=".*_probs", second=".*_probs", examples=24),
        "probe": Probe(taps=".*/out", examples=24, folds=3),
        "stitch": Stitch(first=".*/out", second=".*/out", examples=24, fit_examples=8),
    }
    return Study(name="inside", seeds=1, experiment=Experiment(**told | changes))


@pytest.mark.quick
def test_a_student_is_compared_with_each_teacher_and_every_net_is_probed():
    runs = {run.role: run for run in plan.runs(study())}
    assert {role: [*run.inside] for role, run in runs.items()} == {
        "teacher": ["probe"],
        "baseline": ["attention/teacher", "stitch/teacher", "probe"],
        "distilled": ["attention/teacher", "stitch/teacher", "probe"],
    }
    for name in ("attention/teacher", "stitch/teacher"):
        inputs = runs["distilled"].inside[name].inputs
        assert inputs == {"first": runs["teacher"].net, "second": runs["distilled"].net}
    kinds = [s.kind for s in plan.stages([*runs.values()])]
    assert [kinds.count(kind) for kind in ("attention", "stitch", "probe")] == [2, 2, 3]
    small = plan.smoke(study())
    assert {s.kind for s in plan.stages(plan.runs(small))} == {*kinds}
    assert small.experiment.attention.examples == small.experiment.probe.examples == 16
    assert small.experiment.stitch.examples == small.experiment.stitch.fit_examples == 16


@pytest.mark.quick
def test_nets_are_as_they_were_and_nothing_is_asked_by_default():
    plain = study(attention=Attention(), probe=Probe(), stitch=Stitch())
    runs = plan.runs(plain)
    assert not any(run.inside for run in runs)
    assert [r.net.identity for r in runs] == [r.net.identity for r in plan.runs(study())]
    assert parse(Study, as_dict(study())) == dataclasses.replace(study(), axes={})


@pytest.mark.quick
def test_a_teacher_is_compared_with_that_of_the_next_seed():
    asked = Compare(first=".*/out", second=".*/out", examples=24, measures=({"name": "svcca"},))
    alone = {"attention": Attention(), "probe": Probe(), "stitch": Stitch()}
    plain = study(compare=asked, **alone)
    both = study(compare=dataclasses.replace(asked, other_seed=True), **alone)
    runs = plan.runs(dataclasses.replace(both, seeds=2))
    teachers = [run for run in runs if run.role == "teacher"]
    pairs = [run.inside["other_seed"].inputs for run in teachers]
    assert [(p["first"], p["second"]) for p in pairs] == [
        (teachers[0].net, teachers[1].net),
        (teachers[1].net, teachers[0].net),
    ]
    assert teachers[0].inside["other_seed"].config.compare.second == ".*/out"
    before = plan.stages(plan.runs(dataclasses.replace(plain, seeds=2)))
    assert {s.identity for s in before} < {s.identity for s in plan.stages(runs)}
    assert len(plan.stages(runs)) == len(before) + 2
    assert not any(run.inside for run in plan.runs(plan.smoke(both)))
    with pytest.raises(ValueError, match="ask for 2 seeds"):
        plan.runs(both)


@pytest.mark.quick
def test_what_is_asked_of_similarity_is_no_part_of_what_was_there_before():
    one = next(s for s in plan.stages(plan.runs(study(compare=Compare(".*/out", "a", "b"))))
                 if s.kind == "compare")  # fmt: skip
    assert {*content_of(one.config)["compare"]} == {
        "split", "first", "second", "examples", "batch_size",
    }  # fmt: skip


@pytest.mark.quick
@pytest.mark.parametrize(
    "changes, error, message",
    [
        (
            {"compare": Compare(first="embed", second="embed", measures=({"name": "cca"},))},
            UnknownName,
            "'cca'.*mean_cca",
        ),
        (
            {
                "compare": Compare(
                    first="embed", second="embed", examples=8, measures=({"name": "mutual_knn"},)
                )
            },
            ValueError,
            "at least 11",
        ),
        ({"attention": Attention(first="nothing", second=".*")}, UnknownName, "'nothing'.*probs"),
        ({"attention": Attention(first=".*_probs", second=".*/out")}, ValueError, "no pair"),
        (
            {"attention": Attention(first=".*_probs", second=".*_probs", examples=1)},
            ValueError,
            "1",
        ),
        ({"attention": Attention(split="tset", first=".*")}, UnknownName, "'tset'.*test"),
        ({"probe": Probe(taps="nothing")}, UnknownName, "'nothing'.*block00/out"),
        ({"probe": Probe(taps=".*_probs")}, ValueError, "no features to compare"),
        ({"probe": Probe(taps=".*/out", folds=1)}, ValueError, "folds = 1"),
        ({"stitch": Stitch(first="nothing", second=".*")}, UnknownName, "'nothing'.*block00/out"),
        ({"stitch": Stitch(first=".*_probs", second=".*_probs")}, ValueError, "are no features"),
        ({"stitch": Stitch(first=".*/out", second=".*/out", ridge=0.0)}, ValueError, "ridge = 0.0"),
        ({"stitch": Stitch(fit_split="vla", first=".*/out")}, UnknownName, "'vla'.*val"),
        ({"stitch": Stitch(fit_split="test", first=".*/out")}, ValueError, "both 'test'"),
    ],
)
def test_what_cannot_be_is_told_before_compute(changes, error, message):
    with pytest.raises(error, match=message):
        check(study(**changes))


@pytest.mark.slow
def test_a_study_asks_where_nets_look_and_what_layers_tell(tmp_path):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    folder = execute.run(study(), tmp_path, mesh)
    about = json.loads((folder / "study.json").read_text())
    runs = {run["role"]: run for run in about["runs"]}

    def result(name: str) -> dict:
        path = tmp_path / "stages" / runs["distilled"]["inside"][name] / "result.json"
        return json.loads(path.read_text())

    looked, told = result("attention/teacher"), result("probe")
    assert looked["n_aligned"] == looked["n_conflicting"] == told["n_aligned"] == 24
    assert looked["first_layers"] == ["block01/attn_probs"]
    assert np.shape(looked["aligned"]["js"]) == (1, 2, 2)
    assert 0 < looked["aligned"]["matched"]["value"][0] < np.log(2)
    put_in = result("stitch/teacher")
    assert put_in["n_aligned"] == put_in["n_conflicting"] == 24
    assert put_in["n_fit_aligned"] == put_in["n_fit_conflicting"] == 8
    assert (put_in["first_layers"], put_in["second_layers"]) == (["block01/out"], ["block00/out"])
    assert 0 <= put_in["patched"]["teacher"]["aligned"]["value"][0] <= 1
    assert told["layers"] == ["block00/out"] and len(told["label"]["classes"]) > 1
    assert told["attribute"]["accuracy"]["value"][0] is not None
    assert {"attention", "probe", "stitch"} <= {entry["kind"] for entry in about["ledger"]}
    page = html.write(folder).read_text()
    assert "Where teacher and student look" in page and "What layers tell" in page
    assert "The teacher&#39;s layers in the student" in page
    print([(e["kind"], e["seconds"]) for e in about["ledger"]])
    assert execute.run(study(), tmp_path, mesh) == folder  # nothing is left to do
    check_folders(tmp_path, runs["teacher"]["stage"], mesh)


def check_folders(workdir, identity: str, mesh) -> None:
    """A net is like itself as published weights, and as a folder of its stage."""
    one = stored.read_net(workdir, identity)
    net, variables = stage.Place(workdir, mesh).net(one)
    opened = pipeline.open_data(one.config.data)
    labels, encoder = opened.dataset.info.label_names, opened.encoders[net.view]
    exported = workdir / "exported"
    pretrained.save(net, jax.device_get(variables), exported, labels, encoder)
    asked = Compare(
        first=".*/out", second=".*/out", examples=24, measures=({"name": "procrustes"},)
    )
    names = str(workdir / "stages" / identity), str(exported)
    assert all(map(anywhere.is_folder, names)) and not anywhere.is_folder(identity)
    places = tuple(map(anywhere.find, names))
    found = anywhere.compared(places, asked, mesh)
    assert found["n_aligned"] == 24 and found["first_layers"] == found["second_layers"]
    np.testing.assert_allclose(np.diag(found["aligned"]), 1, rtol=1e-5)
    distance = found["measures"]["procrustes"]["conflicting"]["value"]
    np.testing.assert_allclose(np.diag(distance), 0, atol=2e-3)
    with pytest.raises(ValueError, match="on_set"):
        anywhere.compared((places[1], places[1]), asked, mesh)
    with pytest.raises(FileNotFoundError):
        anywhere.find(str(workdir / "studies"))
