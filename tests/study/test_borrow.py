"""A teacher from another work folder: copied, moved at will, refused where it does not fit."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from fairkd_jax import files, sharding
from fairkd_jax.config import (
    Data,
    EvaluateStage,
    Experiment,
    Mix,
    Optim,
    Role,
    Stage,
    Study,
    Teacher,
    Train,
    TrainStage,
)
from fairkd_jax.registry import UnknownName
from fairkd_jax.study import check, execute, plan, reads, stage, stored

RESNET = {"name": "resnet", "preset": "tiny"}
DIGITS = Data(set={"name": "colored_digits", "image_size": 8})
TRAIN = Train(steps=2, batch_size=16, select="val_average")
NONE = ({"name": "none"},)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def made(mesh, tmp_path_factory):
    """(a work folder, its train stage, a stage that scores it)."""
    workdir = tmp_path_factory.mktemp("theirs")
    model = RESNET | {"depths": (2, 2)}
    config = TrainStage(DIGITS, model, {"name": "lff"}, NONE, Mix(), Optim(), TRAIN, 3)
    net = reads.sealed(Stage("train", config))
    score = reads.sealed_alone(Stage("evaluate", EvaluateStage(None, "test", 64), {"net": net}))
    for one in (net, score):
        stage.run(one, stage.Place(workdir, mesh))
    return workdir, net, score


@pytest.fixture
def theirs(made, tmp_path):
    """A copy of the work folder, to move and to spoil, and the train stage's identity."""
    workdir, net, _ = made
    shutil.copytree(workdir, tmp_path / "theirs")
    return tmp_path / "theirs", net.identity


def study(workdir, identity: str, data: Data = DIGITS, **more) -> Study:
    model = RESNET | {"depths": (1, 1), "view": next(iter(data.views))}
    role = Role(model, train=Train(steps=2, batch_size=16))
    teachers = {
        "old": Teacher(stage=identity, workdir=str(workdir), **more),
        "new": Teacher(**vars(role)),
    }
    return Study("ours", Experiment(data, teachers=teachers, student=role), seeds=2)


def test_it_is_copied_once_and_a_moved_folder_does_nothing_anew(theirs, mesh, tmp_path):
    workdir, identity = theirs
    folder = execute.run(study(workdir, identity[:6]), tmp_path / "ours", mesh)
    rows = json.loads((folder / "study.json").read_text())["runs"]
    old = [row for row in rows if " old " in row["run"]]
    assert len(old) == 1 and old[0]["debias"] == "lff"  # one for all seeds
    assert (old[0]["model"], old[0]["selection"]) == ("resnet/tiny", "val_average")
    assert {row["teachers"]["old"] for row in rows if row["role"] == "distilled"} == {old[0]["run"]}
    copied = tmp_path / "ours" / "stages" / old[0]["stage"]
    assert stored.read(tmp_path / "ours", copied.name).kind == "borrow"
    (_, here), (_, there) = (
        stage.Place(at, mesh).net(stored.read(at, one))
        for at, one in ((tmp_path / "ours", copied.name), (workdir, identity))
    )
    jax.tree.map(np.testing.assert_array_equal, here, there)

    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("ours/stages/*/done")}
    moved = workdir.rename(tmp_path / "elsewhere")
    planned = check.check(study(moved, identity))
    assert {one.identity for one in plan.stages(planned)} == {p.parent.name for p in before}
    execute.run(study(moved, identity), tmp_path / "ours", mesh)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("ours/stages/*/done")} == before
    assert stored.read(tmp_path / "ours", copied.name).config.workdir == str(moved)


def test_its_identity_is_of_its_content(theirs):
    workdir, identity = theirs
    trained = stored.read(workdir, identity)

    def net():
        return plan.runs(study(workdir, identity))[1].net

    before = net()
    assert before.kind == "borrow" and "net.json" in before.reads
    path = next((workdir / "stages" / identity / "net").rglob("d/*"))
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(files.Damaged, match=r"teachers.old.stage.*something else than was written"):
        net()
    stored.close(workdir / "stages" / trained.identity, {"seconds": 1.0, "examples": 1})
    assert net().identity != before.identity
    with pytest.raises(reads.Changed, match="changed since"):
        reads.check([before])


def test_what_is_no_finished_net_is_refused(made, theirs):
    workdir, identity = theirs
    wrong = {
        "abcdef": r"teachers.old: unknown stage in .*'abcdef'. Choices: \w+",
        made[2].identity: rf"is of kind 'evaluate', and only train .* hold nets: {identity}",
        "": r"teachers.old has stage = ''.*needs both",
    }
    for asked, message in wrong.items():
        with pytest.raises(ValueError, match=message):
            plan.runs(study(workdir, asked))
    for more in ({"seed": 1}, {"debias": {"name": "erm"}}, {"train": TRAIN}):
        with pytest.raises(ValueError, match=f"{next(iter(more))} would have no effect"):
            plan.runs(study(workdir, identity, **more))
    with pytest.raises(FileNotFoundError, match="nowhere holds no stages"):
        plan.runs(study(workdir / "nowhere", identity))
    (workdir / "stages" / identity / "done").unlink()
    with pytest.raises(files.Damaged, match=r"teachers.old.stage.*not finished"):
        plan.runs(study(workdir, identity))


def test_what_does_not_fit_this_study_is_refused_before_compute(theirs):
    workdir, identity = theirs
    folder = workdir / "stages" / identity
    facts = json.loads((folder / "net.json").read_text())

    def refused(error, match, data=DIGITS, **changes):
        (folder / "net.json").write_text(json.dumps(facts | changes))
        stored.close(folder, {"seconds": 1.0, "examples": 1})
        with pytest.raises(error, match=match):
            check.check(study(workdir, identity, data))

    apart = (
        r"tells \['a', 'b', 'c'\] apart, in this order, and the data of this study have \['0 to 4'"
    )
    refused(ValueError, apart, labels=["a", "b", "c"])
    refused(
        ValueError, apart.replace("a', 'b', 'c", "5 to 9', '0 to 4"), labels=["5 to 9", "0 to 4"]
    )
    refused(
        ValueError, "as encoded by another, and here.*There, data.views.image", identity="another"
    )
    pixels = dataclasses.replace(DIGITS, views={"pixels": {"name": "image"}})
    refused(UnknownName, r"in data.views, that the net.*'image'.*pixels.*There", pixels)
