"""Stages about the inside of nets: planned, checked before compute, done once, and on the page."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from fairkd_jax import sharding
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
from fairkd_jax.registry import UnknownName
from fairkd_jax.report import html
from fairkd_jax.study import execute, plan
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
@pytest.mark.parametrize(
    "changes, error, message",
    [
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
