"""A student that starts from its teacher: what is planned, checked, done and written down."""

import json

import jax
import numpy as np
import pytest

from fairkd_jax import sharding
from fairkd_jax.config import (
    Data,
    Experiment,
    Role,
    Study,
    Train,
    Transfer,
    as_config_dict,
    as_dict,
    parse,
    update,
)
from fairkd_jax.registry import UnknownName
from fairkd_jax.study import check, execute, plan, stage, stored


def leaves(tree):
    named = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(x) for p, x in named}


def small_study():
    """From scratch, from the teacher, and from the teacher but for the stem, not trained."""
    train = Train(steps=2, batch_size=16)
    resnet = {"name": "resnet", "preset": "tiny"}
    experiment = Experiment(
        data=Data(set={"name": "colored_digits", "image_size": 8}),
        teacher=Role(resnet | {"depths": (3, 3)}, train=train),
        student=Role(resnet | {"depths": (1, 2)}, train=train),
    )
    axes = {
        "start": (
            {"label": "random", "transfer": None},
            {"label": "teacher", "transfer": {}},
            {"label": "untrained", "transfer.embeddings": False, "student.train.steps": 0},
        )
    }
    return Study(seeds=1, experiment=experiment, axes=axes)


def test_a_study_from_its_teachers_weights(tmp_path):
    planned = check.check(small_study())
    place = stage.Place(tmp_path, sharding.make_mesh(devices=jax.devices()[:1]))
    for one in plan.stages(planned):
        stage.run(one, place)
    fresh, started, untrained = (r for r in planned if r.role == "distilled")
    assert "init" not in fresh.net.inputs
    start = started.net.inputs["init"]
    assert start.kind == "transfer" and start.inputs["net"] == started.teacher.net
    assert stored.read(tmp_path, start.identity).identity == start.identity
    assert "transfer" in execute.table_of_stages(planned, tmp_path)

    def record(one):
        return json.loads((place.folder(one) / "transfer.json").read_text())

    assert record(start)["layers"]["stage2/block2"] == "stage2/block2"
    assert record(start)["fresh"] == []
    assert record(untrained.net.inputs["init"])["fresh"] == ["stem/conv", "stem/norm"]

    # What the teacher gives is the teacher's, the rest is what the baseline starts from.
    teacher, baseline, mine = (
        leaves(place.net(r.net)[1]) for r in (untrained.teacher, untrained.baseline, untrained)
    )
    for path, value in mine.items():
        np.testing.assert_array_equal(value, (baseline if "/stem/" in path else teacher)[path])
    # The weights to start from are still there after training from them.
    copied, trained = (leaves(place.net(s)[1]) for s in (start, started.net))
    assert all(np.array_equal(value, teacher[path]) for path, value in copied.items())
    assert any(not np.array_equal(value, copied[path]) for path, value in trained.items())


def distilled(**changes):
    """The distilled run's stage; nothing is opened."""
    experiment = update(Experiment(), {"transfer": {}} | changes)
    runs = plan.runs(Study(seeds=1, experiment=experiment))
    return next(r for r in runs if r.role == "distilled").net


def kinds(stage):
    return {name: one.kind for name, one in stage.inputs.items()}


def test_only_what_trains_the_student_from_scratch_starts_from_the_teacher():
    both = {"init": "transfer", "teacher_logits": "table"}
    assert kinds(distilled()) == both
    jtt = distilled(debias={"name": "jtt"})
    assert kinds(jtt) == both | {"mistakes": "table"}
    assert kinds(jtt.inputs["mistakes"].inputs["net"]) == {"init": "transfer"}
    dfr = distilled(debias={"name": "dfr"})
    assert {*kinds(dfr).values()} == {"train", "table"} and kinds(dfr.inputs["net"]) == both
    poe = distilled(debias={"name": "poe"})
    assert kinds(poe) == both | {"bias": "table"}
    assert not poe.inputs["bias"].inputs["net"].inputs
    assert kinds(distilled(distill={"name": "none"})) == {"init": "transfer"}


def test_teacher_and_baseline_start_afresh():
    runs = plan.runs(small_study())
    assert any("init" in r.net.inputs for r in runs)
    assert not any("init" in r.net.inputs for r in runs if r.role != "distilled")


def test_published_weights_and_a_teacher_are_one_too_many():
    with pytest.raises(ValueError, match=r"starts from minilm and, by transfer, from its teacher"):
        distilled(**{"student.model.pretrained": "minilm"})


def test_a_transfer_is_read_from_a_config():
    listed = {"layers": {"block00": "block01"}, "head": False}
    experiment = parse(Experiment, {"transfer": listed})
    assert experiment.transfer == Transfer(layers={"block00": "block01"}, head=False)
    for one in (experiment, Experiment(), Experiment(transfer=Transfer("last"))):
        again = parse(Experiment, as_config_dict(one))
        assert as_dict(again) == as_dict(one) and again.transfer == one.transfer
    flags = as_config_dict(Experiment(transfer=Transfer()))
    flags.transfer.layers = "last"  # as --config.transfer.layers=last
    assert parse(Experiment, flags).transfer == Transfer("last")
    assert update(Experiment(), {"transfer.width": "norm"}).transfer == Transfer(width="norm")
    assert update(experiment, {"transfer": None}).transfer is None
    with pytest.raises(UnknownName, match=r"key in config.transfer: 'layer'.*'layers'"):
        parse(Experiment, {"transfer": {"layer": "last"}})
    with pytest.raises(UnknownName, match=r"key in config.transfer: 'layer'.*'layers'"):
        update(Experiment(), {"transfer.layer": "last"})
    with pytest.raises(ValueError, match=r"config.transfer.layers = 3: expected a str"):
        parse(Experiment, {"transfer": {"layers": 3}})
