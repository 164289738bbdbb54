"""Stage "circuit": planned, checked before compute, done once, and on the page."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from fairkd_jax import sharding
from fairkd_jax.analyses import Attention, Circuit, Compare, Probe
from fairkd_jax.config import Data, Experiment, Role, Study, Train, as_dict, parse
from fairkd_jax.registry import UnknownName
from fairkd_jax.report import html
from fairkd_jax.study import execute, plan
from fairkd_jax.study.check import check

TRAIN = Train(steps=2, batch_size=8, log_every=2, checkpoint_every=2)
CIRCUIT = Circuit(
    scores={"eap_ig": {"name": "eap_ig", "steps": 2}, "exact": {"name": "exact"}},
    sizes=(0.1,),
    examples=6,
    batch_size=4,
    bootstrap=10,
    random=2,
)


def role(**options) -> Role:
    return Role(
        {"name": "vit", "depth": 1, "width": 8, "heads": 2, "patch": 8} | options, train=TRAIN
    )


def study(**changes) -> Study:
    told = {
        "data": Data(),
        "teacher": role(depth=2),
        "student": role(),
        "circuit": dataclasses.replace(CIRCUIT, **changes.pop("circuit", {})),
    }
    return Study(name="circuits", seeds=1, experiment=Experiment(**told | changes))


@pytest.mark.quick
def test_a_student_is_compared_with_each_teacher_and_nothing_is_asked_by_default():
    runs = {run.role: run for run in plan.runs(study())}
    asked = {role: [*run.inside] for role, run in runs.items()}
    assert asked == {role: ["circuit/teacher"] * (role != "teacher") for role in runs}
    inputs = runs["distilled"].inside["circuit/teacher"].inputs
    assert inputs == {"first": runs["teacher"].net, "second": runs["distilled"].net}
    plain = dataclasses.replace(study().experiment, circuit=Circuit())
    without = plan.runs(Study(name="circuits", seeds=1, experiment=plain))
    assert not any(run.inside for run in without)
    assert [r.net.identity for r in without] == [run.net.identity for run in runs.values()]
    assert parse(Study, as_dict(study())) == study()
    small = plan.smoke(study()).experiment.circuit
    assert small.examples == 16 and small.random == 2 and small.scores == CIRCUIT.scores


@pytest.mark.quick
@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"pairs": "colour"}, UnknownName, "what colored_digits can change: 'colour'.*attribute"),
        ({"kind": "alined"}, UnknownName, "'alined'.*'aligned'"),
        ({"level": "edgse"}, UnknownName, "'edgse'.*'edges'"),
        ({"metric": "logits"}, UnknownName, "metric of circuits: 'logits'.*kl"),
        ({"ablation": "none"}, UnknownName, "ablation of circuits: 'none'.*zero"),
        ({"select": "best"}, UnknownName, "select of circuits: 'best'.*greedy"),
        ({"sizes": (0.0,)}, ValueError, "sizes has 0.0"),
        ({"split": "tset"}, UnknownName, "'tset'.*test"),
        ({"scores": {"a": {"name": "eap"}}}, UnknownName, "'eap'.*eap_ig"),
        ({"scores": {"name": "eap_ig"}}, ValueError, "circuit.scores.name = 'eap_ig': expected a"),
        (
            {"scores": {"a": {"name": "attribution"}}, "metric": "kl"},
            ValueError,
            "attribution of metric 'kl' are 0",
        ),
    ],
)
def test_what_cannot_be_is_told_before_compute(changes, error, message):
    with pytest.raises(error, match=message):
        check(study(circuit=changes))


@pytest.mark.slow
def test_a_study_asks_what_does_the_work(tmp_path):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    folder = execute.run(study(), tmp_path, mesh)
    about = json.loads((folder / "study.json").read_text())
    runs = {run["role"]: run for run in about["runs"]}
    path = tmp_path / "stages" / runs["distilled"]["inside"]["circuit/teacher"] / "result.json"
    told = json.loads(path.read_text())
    assert told["level"] == "edges" and told["n"] == 6
    assert len(told["first"]["sites"]) > len(told["second"]["sites"])
    for net in ("first", "second"):
        for method in ("eap_ig", "exact"):
            one = told[net]["circuits"][method]["top 0.1"]
            assert one["size"] == len(one["kept"]) and np.isfinite(one["faithfulness"]["value"])
            assert len(told[net]["scores"][method]["value"]) == len(told[net]["sites"])
        assert -1 <= told[net]["agreement"]["eap_ig, exact"] <= 1
    shift = told["shift"]["methods"]["exact"]["top 0.1"]
    assert 0 <= shift["overlap"]["value"] <= 1 and 0 < shift["mapped"] <= 1
    assert np.isfinite(shift["cross"]["faithfulness"]["value"])
    assert "circuit" in {entry["kind"] for entry in about["ledger"]}
    page = html.write(folder).read_text()
    assert "<h2>Circuits</h2>" in page and "Circuits: " in page
    print([(e["kind"], e["seconds"]) for e in about["ledger"]])
    assert execute.run(study(), tmp_path, mesh) == folder  # nothing is left to do


@pytest.mark.slow
def test_nets_without_edges_are_compared_by_nodes_and_the_page_says_why(tmp_path):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    small = {"name": "resnet", "depths": (1, 1), "widths": (4, 8), "stem_width": 4}
    folder = execute.run(
        study(student=Role({**small, "norm": "group", "stem": "plain"}, train=TRAIN)),
        tmp_path,
        mesh,
    )
    page = html.write(folder).read_text()
    assert "passes a ReLU before the next block reads it" in page
    assert "the nets share no part" in page


HANS = [
    f"{label}\tThe {a} {verb} the {b} .\tThe {x} {verb} the {y} .\tlexical_overlap"
    for a, verb, b in (
        ("doctor", "called", "lawyer"),
        ("artist", "advised", "senator"),
        ("judge", "thanked", "actor"),
    )
    for label, x, y in (("entailment", a, b), ("non-entailment", b, a))
]


@pytest.mark.slow
def test_nets_are_asked_about_examples_of_another_set(tmp_path):
    lines = "label\tpremise\thypothesis\theuristic", *HANS
    (tmp_path / "hans.tsv").write_text("\n".join(lines) + "\n")
    other = {
        "name": "nli_files",
        "folder": str(tmp_path),
        "hans": "hans.tsv",
        "label_names": ("entailment", "non-entailment"),
        "attribute": "heuristic",
        "attribute_names": ("lexical_overlap",),
        "suggests": {"lexical_overlap": ("entailment",)},
    }
    asked = {"set": other, "split": "hans"}
    bert = Role({"name": "bert", "depth": 1, "width": 8, "heads": 2}, train=TRAIN)
    words = {"wordpiece": {"name": "wordpiece", "length": 24, "vocab_size": 300}}
    plain = Study(
        name="elsewhere",
        seeds=1,
        experiment=Experiment(
            data=Data(set={"name": "template_nli", "train": 60, "eval": 30}, views=words),
            teacher=bert,
            student=bert,
            compare=Compare(first=".*/out", second=".*/out", **asked),
            attention=Attention(first=".*_probs", second=".*_probs", **asked),
            probe=Probe(taps=".*/out", folds=2, **asked),
            circuit=dataclasses.replace(CIRCUIT, pairs="subject_object", kind="all", **asked),
        ),
    )
    assert as_dict(parse(Study, as_dict(plain))) == as_dict(plain)
    workdir, mesh = tmp_path / "runs", sharding.make_mesh(devices=jax.devices()[:1])
    folder = execute.run(plain, workdir, mesh)
    runs = {run["role"]: run for run in json.loads((folder / "study.json").read_text())["runs"]}
    inside = runs["distilled"]["inside"] | {
        "compare": next(iter(runs["distilled"]["comparisons"].values()))
    }
    told = {
        name: json.loads((workdir / "stages" / one / "result.json").read_text())
        for name, one in inside.items()
    }
    assert told.pop("circuit/teacher")["n"] == len(HANS)
    assert {(one["n_aligned"], one["n_conflicting"]) for one in told.values()} == {(3, 3)}
    with pytest.raises(UnknownName, match=r"'tset'.*hans"):
        check(
            dataclasses.replace(
                plain,
                experiment=dataclasses.replace(
                    plain.experiment, probe=Probe(taps=".*/out", set=other, split="tset")
                ),
            )
        )
