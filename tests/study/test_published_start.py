"""Stages that start from published weights: what is refused before training, the way out again."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT

from fairkd_jax import registry, sharding
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
from fairkd_jax.data import pipeline
from fairkd_jax.models import pretrained
from fairkd_jax.report import html
from fairkd_jax.study import check, execute, reads, stage, stored
from fairkd_jax.train import loop
from fairkd_jax.train.passes import trained_nets
from fairkd_jax.train.start import from_published
from fairkd_jax.types import TrainState

SET = {"name": "template_nli", "train": 200, "eval": 60}
LENGTH = {"name": "wordpiece", "length": 24}
NET = {"name": "bert", "preset": "tiny", "depth": 2, "width": 16, "mlp_width": 32}
NONE = ({"name": "none"},)


def data(**view):
    return Data(set=SET, views={"wordpiece": LENGTH | view})


def train_stage(views, model, steps=0, debias="erm"):
    train = Train(steps=steps, batch_size=8)
    config = TrainStage(views, model, {"name": debias}, NONE, Mix(), Optim(), train, 0)
    return reads.sealed(Stage("train", config))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    return stage.Place(folder, sharding.make_mesh(devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def trained(place):
    """A small BERT after two steps, its tokenizer trained on the data."""
    one = train_stage(data(vocab_size=300), NET, steps=2)
    stage.run(one, place)
    return one


@pytest.fixture(scope="module")
def exported(place, trained, tmp_path_factory):
    """The folder that the launcher exports the small BERT to."""
    folder = tmp_path_factory.mktemp("exported") / "student"
    flags = [f"--workdir={place.workdir}", f"--stage={trained.identity}", f"--folder={folder}"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch" / "export.py"), *flags],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{folder}: config.json, model.safetensors, tokenizer.json" in done.stdout
    return folder


@pytest.fixture
def copied(exported, tmp_path):
    """A copy to be altered."""
    return shutil.copytree(exported, tmp_path / "weights")


def start(folder, tokenizer=None, **options):
    """(data, model) of a net that starts from the folder's weights."""
    model = {"name": "bert", "pretrained": str(folder)} | options
    return data(tokenizer=str(tokenizer or folder)), model


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def score(place, net):
    one = Stage("evaluate", EvaluateStage(None, "test", 32), {"net": net})
    stage.run(one, place)
    return json.loads((place.folder(one) / "result.json").read_text())["sums"]


def test_exported_weights_are_a_net_of_another_study_as_they_are(place, trained, exported):
    again = train_stage(*start(exported))
    stage.run(again, place)
    assert_equal(place.net(again)[1], place.net(trained)[1])
    assert place.net(again)[0].architecture == place.net(trained)[0].architecture
    for name, sums in score(place, trained).items():
        np.testing.assert_allclose(score(place, again)[name], sums, rtol=1e-5, err_msg=name)


def test_training_starts_from_them_and_an_earlier_stage_wins(place, trained, exported):
    slow = train_stage(*start(exported), steps=2).change({"optim.learning_rate": 1e-6})
    stage.run(slow, place)
    kernels = [
        np.asarray(place.net(s)[1]["params"]["block00"]["query"]["kernel"]) for s in (slow, trained)
    ]
    np.testing.assert_allclose(*kernels, rtol=0, atol=1e-5)
    assert np.any(kernels[0] != kernels[1])
    views, model = start(exported)
    wins = train_stage(views, model).hang(init=slow)
    stage.run(wins, place)
    assert_equal(place.net(wins)[1], place.net(slow)[1])


def test_published_weights_teach_untrained_and_a_study_borrows_them_without_their_files(
    place, exported, copied, tmp_path
):
    views, model = start(copied, tokenizer=exported)
    few = Train(steps=2, batch_size=8)
    student = Role(NET | {"width": 8, "mlp_width": 16, "heads": 2}, train=few)
    as_it_is = Train(steps=0, batch_size=8)
    first = Experiment(views, teacher=Role(model, train=as_it_is), student=student)
    folder = execute.run(Study("first", first, seeds=1), tmp_path / "first", place.mesh)
    html.write(folder)
    page = (folder / "report" / "index.html").read_text()
    assert "bert/weights → bert/tiny" in page
    rows = json.loads((folder / "study.json").read_text())["runs"]
    untrained = next(row for row in rows if row["role"] == "teacher")
    shutil.rmtree(copied)
    teachers = {"old": Teacher(stage=untrained["stage"], workdir=str(tmp_path / "first"))}
    second = Experiment(views, teachers=teachers, student=student)
    folder = execute.run(Study("second", second, seeds=1), tmp_path / "second", place.mesh)
    row = json.loads((folder / "study.json").read_text())["runs"][0]
    assert (row["model"], row["parameters"]) == ("bert/weights", untrained["parameters"])


@pytest.mark.parametrize("debias", ["lff", "read"])
def test_every_trained_net_starts_from_them(exported, debias):
    """Also one of fewer blocks, as far as it goes."""
    config = train_stage(*start(exported, head="fresh"), debias=debias).config
    net = loop.net_of(config.data, config.model)
    found = trained_nets(net, registry.build("debias", config.debias))
    nets = {name: one.init(jax.random.key(i)) for i, (name, one) in enumerate(found.items())}
    params, stats = ({n: v[k] for n, v in nets.items()} for k in ("params", "stats"))
    state = TrainState(0, {"nets": params}, stats, {}, {})
    started = from_published(state, net, config).params["nets"]
    for name in nets:
        assert_equal(started[name].pop("head"), params[name]["head"])
    student, other = started.values()
    assert_equal({name: student[name] for name in other}, other)


def refused(match, views, model):
    """Both before a study begins and before a stage does."""
    role = Role(model, train=Train(steps=0, batch_size=8))
    experiment = Experiment(data=views, teacher=role, student=role, distill=NONE)
    with pytest.raises(ValueError, match=match):
        check.check(Study(experiment=experiment, seeds=1))
    with pytest.raises(ValueError, match=match):
        loop.build(train_stage(views, model).config, {})


def test_another_tokenizer_is_refused(exported):
    model = start(exported)[1]
    told = rf"other inputs than view 'wordpiece'.*data\.views\.wordpiece\.tokenizer={exported}"
    refused(told, data(vocab_size=200), model)
    loop.check(train_stage(data(vocab_size=300), model).config, {})  # the same words: as good


def test_a_word_without_an_embedding_matters_where_it_occurs(copied):
    rows = json.loads((copied / "config.json").read_text())["vocab_size"]
    (copied / "added_tokens.json").write_text(json.dumps({"<n>": rows}))
    views, model = start(copied)
    loop.check(train_stage(views, model).config, {})
    asked = "premise: {premise} <n> hypothesis: {hypothesis}"
    views = data(tokenizer=str(copied), prompt=asked)
    told = (
        rf"tokens up to {rows}, but the net's table has {rows} rows: example 0 has {rows}: .*prem"
    )
    refused(told, views, model)
    own = data(vocab_size=300), NET | {"vocab_size": 20}
    refused(r"tokens up to \d+, but the net's table has 20 rows: example 0 has", *own)


def test_weights_without_a_tokenizer_are_taken_on_trust(exported, copied, caplog):
    for file in copied.glob("tokenizer*"):
        file.unlink()
    loop.check(train_stage(*start(copied, tokenizer=exported)).config, {})
    assert f"nothing in {copied} says which inputs" in caplog.text


def test_other_labels_and_broken_weights_are_refused(exported, copied):
    path = copied / "config.json"
    config = json.loads(path.read_text())
    other = {"label2id": None, "id2label": {"0": "A", "1": "B", "2": "C"}}
    path.write_text(json.dumps(config | other))
    refused(r"the head tells \['A', 'B', 'C'\] apart, the task \['entailment'", *start(copied))
    loop.check(train_stage(*start(copied, head="fresh")).config, {})
    path.write_text(json.dumps(config | {"label2id": None, "id2label": {"0": "A", "1": "B"}}))
    meaning = {"B": "entailment", "A": "non-entailment"}
    loop.check(train_stage(*start(copied, label_map=meaning)).config, {})
    path.write_text(json.dumps(config))
    refused(r"width = 32, config\.json says 16", *start(copied, depth=1, width=32))
    refused("'head' says|no 'pretrained'", data(vocab_size=300), NET | {"head": "take"})
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    views, model = start(copied)
    with pytest.raises(FileNotFoundError, match="pickled"):
        loop.check(train_stage(views, model).config, {})


def test_a_net_whose_inputs_changed_since_is_refused(place, trained):
    path = place.folder(trained) / stored.NET
    original = path.read_text()
    assert json.loads(original) == {
        "view": "wordpiece",
        "identity": pipeline.open_data(trained.config.data).facts["wordpiece"]["identity"],
        "labels": ["entailment", "non-entailment"],
    }
    path.write_text(json.dumps({"view": "wordpiece", "identity": "other words"}))
    stored.close(path.parent, {"seconds": 1.0, "examples": 0})
    told = (
        rf"{path.parent} was trained on view 'wordpiece' as encoded by other words.*changed since"
    )
    with pytest.raises(ValueError, match=told):
        stage.Place(place.workdir, place.mesh).net(trained)
    path.write_text(original)
    stored.close(path.parent, {"seconds": 1.0, "examples": 0})
    stage.Place(place.workdir, place.mesh).net(trained)


def test_the_exported_tokenizer_reads_as_the_view_does(trained, exported):
    transformers = pytest.importorskip("transformers")
    opened = pipeline.open_data(trained.config.data)
    columns = {k: v[:5] for k, v in opened.train.columns.items()}
    ours = opened.encoders["wordpiece"].encode(columns)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(exported))
    pairs = columns["premise"].tolist(), columns["hypothesis"].tolist()
    shape = {"padding": "max_length", "truncation": "longest_first", "max_length": 24}
    theirs = tokenizer(*pairs, **shape, return_tensors="np")
    np.testing.assert_array_equal(theirs["input_ids"], ours["tokens"])
    np.testing.assert_array_equal(theirs["attention_mask"], ours["mask"])
    np.testing.assert_array_equal(theirs["token_type_ids"], ours["segments"])


def test_a_net_without_a_published_form_is_not_exported(tmp_path):
    digits = Data(set={"name": "colored_digits", "image_size": 8})
    net = loop.net_of(digits, {"name": "resnet", "preset": "tiny"})
    with pytest.raises(ValueError, match="stem = 'plain'"):
        pretrained.save(net, net.variable_shapes(), tmp_path, ("a", "b"))
    assert not list(tmp_path.iterdir())
