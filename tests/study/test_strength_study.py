"""Knobs of strength as axes of a study, and subpopulations, from the plan to the page."""

import json

import jax
import numpy as np
import pandas as pd
import pytest

from fairkd_jax import sharding
from fairkd_jax.config import Data, Evaluation, Experiment, Role, Study, Teacher, Train
from fairkd_jax.data import pipeline
from fairkd_jax.data.sets.template_nli import TemplateNli
from fairkd_jax.data.tables import read_table
from fairkd_jax.report import html
from fairkd_jax.study import execute, plan
from fairkd_jax.study.check import check

DIGITS = {"name": "colored_digits", "image_size": 8}
WORDS = {"wordpiece": {"name": "wordpiece", "length": 24, "vocab_size": 300}}
TRAIN = Train(steps=4, batch_size=8, log_every=2, checkpoint_every=2)
BERT = Role({"name": "bert", "preset": "tiny", "depth": 1, "width": 16}, train=TRAIN)
ORIGINS = ("original", "revised_hypothesis", "revised_premise")


def study(data, axes, role=None, **changes):
    role = role or Role(train=TRAIN)
    experiment = Experiment(data=data, teacher=role, student=role, **changes)
    return Study(name="strong", seeds=1, experiment=experiment, axes=axes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs of templates in files, those of test with a column `origin`."""
    folder, made = tmp_path_factory.mktemp("pairs"), TemplateNli(train=240, eval=60)
    for split in ("train", "test"):
        columns = made.load(split).columns
        with (folder / f"{split}.tsv").open("w") as file:
            print("label", "premise", "hypothesis", "origin", sep="\t", file=file)
            for i, y in enumerate(columns["label"]):
                words = columns["premise"][i], columns["hypothesis"][i]
                print(made.info.label_names[y], *words, ORIGINS[i % 3], sep="\t", file=file)
    return folder


def pairs(folder, **options):
    names = TemplateNli().info.label_names
    files = {"train": "train.tsv", "test": "test.tsv"}
    return {"name": "nli_files", "folder": str(folder), "label_names": names} | files | options


@pytest.mark.quick
def test_all_nets_of_a_run_see_the_same_part_and_the_whole_is_as_it_was():
    axes = {"data.fraction": (0.25, 1.0), "debias": ({"name": "jtt"},)}
    made = study(Data(set=DIGITS), axes)
    runs = plan.runs(made)
    assert [run.axes["data.fraction"] for run in runs[-2:]] == ["1.0", "1.0"]
    plain = plan.runs(study(Data(set=DIGITS), {"debias": ({"name": "jtt"},)}))
    identities = [{r.net.identity for r in some} for some in (runs, plain)]
    assert len(identities[0]) == 2 * len(identities[1]) and identities[1] < identities[0]
    for stage in plan.stages(runs):
        if stage.kind == "train":
            seeds = {0} if stage.config.data.fraction < 1 else {None}
            assert {stage.config.data.strength_seed} == seeds
            tables = [s for s in stage.inputs.values() if s.kind == "table"]
            assert all(s.inputs["net"].config.data == stage.config.data for s in tables)


@pytest.mark.quick
def test_a_named_teacher_of_another_seed_sees_the_same_part():
    role = Role(train=TRAIN)
    experiment = Experiment(
        data=Data(set=DIGITS, fraction=0.5),
        student=role,
        teachers={"a": Teacher(train=TRAIN), "b": Teacher(train=TRAIN, seed=10)},
    )
    runs = plan.runs(Study(seeds=2, experiment=experiment))
    for run in runs:
        assert run.net.config.data.strength_seed == run.experiment.seed
    assert {r.net.config.seed for r in runs if r.called == "b"} == {10, 11}


@pytest.mark.parametrize("name", ["colored_digits", "template_nli", "nli_files"])
def test_every_knob_is_an_axis_on_every_set(name, folder):
    sets = {
        "colored_digits": (Data(set=DIGITS), None),
        "template_nli": (Data(set={"name": "template_nli", "train": 240, "eval": 60}), BERT),
        "nli_files": (Data(set=pairs(folder)), BERT),
    }
    data, role = sets[name]
    data = Data(set=data.set, views=WORDS) if role else data
    axes = {
        "data.fraction": (0.5, 1.0),
        "data.correlation": (0.75, None),
        "data.label_noise": (0.0, 0.1),
        "floor": ({"label": "5", "data.fraction": 0.1, "data.group_floor": 5},),
    }
    # one at a time: the product would be tried for minutes
    whole = pipeline.open_data(data).source("train")
    sizes = {}
    for axis, values in axes.items():
        for run in check(study(data, {axis: values}, role, distill=({"name": "none"},))):
            part = pipeline.open_data(run.experiment.data).source("train")
            sizes[axis, run.axes[axis]] = part.split.counts()
            assert part is whole or part._whole is whole  # encoded once
    n = whole.split.counts()
    np.testing.assert_array_equal(sizes["data.fraction", "0.5"], np.floor(n / 2 + 0.5))
    right = sizes["data.correlation", "0.75"][[0, 3]] / 3
    np.testing.assert_allclose(sizes["data.correlation", "0.75"][[1, 2]], right, atol=1)
    assert (sizes["data.label_noise", "0.1"] != n).all() and sizes["floor", "5"].min() == 5


@pytest.mark.quick
@pytest.mark.parametrize(
    ("data", "axes", "told"),
    [
        (Data(set=DIGITS, group_floor=5), {}, "data.group_floor has no effect"),
        (Data(set=DIGITS), {"data.group_floor": (5, 9)}, "data.group_floor has no effect"),
        (Data(set=DIGITS), {"data.fraction": (0.5, 2.0)}, "data.fraction = 2.0"),
        (Data(set=DIGITS, split="val"), {"data.fraction": (0.5,)}, "would act on the split"),
        (Data(set=DIGITS), {"data.correlation": (0.9999,)}, "reaches shares from .* 0 to 4: 51"),
        (Data(set=DIGITS), {"data.fractoin": (0.5,)}, "'fractoin'.*Did you mean 'fraction'"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused_before_anything_is_computed(data, axes, told):
    with pytest.raises(ValueError, match=told):
        check(study(data, axes))


def test_a_study_of_fractions_and_subpopulations_to_its_page(folder, tmp_path):
    cad = pairs(folder, train="", subpopulations={"test": "origin"})
    evaluate = {"in_domain": Evaluation(), "cad": Evaluation(set=cad)}
    worst = "cad/test/worst_subpopulation_accuracy"
    axes = {"data.fraction": (0.5, 1.0)}
    made = study(Data(set=pairs(folder), views=WORDS), axes, BERT, evaluate=evaluate)
    made = Study(**vars(made) | {"headline": (worst, "cad/test/gap_id_ood/origin=original")})
    done = execute.run(made, tmp_path, sharding.make_mesh(devices=jax.devices()[:1]))
    page = html.write(done).read_text()
    table = pd.read_csv(done / "report" / "records.csv", keep_default_na=False)

    parts = table[table["metric"] == "acc_subpopulation"]
    assert {*parts["group"]} == {f"origin={o}" for o in ORIGINS} and {*parts["n"]} == {20}
    lowest = parts.groupby(["run", "stage"])["value"].apply(lambda v: min(map(float, v)))
    for metric in ("worst_subpopulation_accuracy", "acc_wg"):
        rows = table[table["metric"] == metric].set_index(["run", "stage"])
        assert rows["value"].astype(float).to_dict() == lowest.to_dict()
        assert {*rows["worst"]} <= {*parts["group"]} and {*rows["n"]} == {20}
    gaps = table[table["metric"] == "gap_id_ood"]
    assert {*gaps["group"]} == {"", *parts["group"]}
    accuracy = table[table["metric"] == "acc_avg"].groupby("run")["value"].nunique()
    assert (accuracy == 1).all()  # cad is the test split itself, so that all gaps
    assert {*gaps["value"][gaps["group"] == ""].astype(float)} == {0.0}

    about = json.loads((done / "study.json").read_text())
    half, whole = (
        about["data"]["in_domain"][k]["counts"] for k in ("train, fraction 0.5", "train")
    )
    assert half == np.floor(np.array(whole) / 2 + 0.5).tolist() and sum(whole) == 240
    assert "train, fraction 0.5</th>" in page and "data.fraction=0.5" in page
    assert "Accuracy by subpopulation" in page and "(n=20; 1 of 1)" in page

    runs = plan.runs(made)
    for run in runs:
        if run.role == "distilled":
            answers = read_table(
                tmp_path / "stages" / run.net.inputs["teacher_logits"].identity / "table"
            )
            source = pipeline.open_data(run.experiment.data).source("train")
            np.testing.assert_array_equal(answers.id, np.sort(source.split.columns["id"]))
