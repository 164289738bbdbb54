"""Single stages: what an evaluation writes where a split has groups of its own."""

import json
import re

import jax
import pytest

from fairkd_jax import sharding
from fairkd_jax.config import Data, EvaluateStage, Mix, Optim, Stage, Train, TrainStage
from fairkd_jax.registry import UnknownName
from fairkd_jax.study import stage, stored

PAIRS = Data(
    set={"name": "template_nli", "train": 200, "eval": 60},
    views={"wordpiece": {"name": "wordpiece", "length": 24, "vocab_size": 300}},
)
NET = {"name": "bert", "preset": "tiny", "depth": 1, "width": 16}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(place, train stage) of a small BERT after two steps."""
    place = stage.Place(
        tmp_path_factory.mktemp("stages"), sharding.make_mesh(devices=jax.devices()[:1])
    )
    none, train = ({"name": "none"},), Train(steps=2, batch_size=8)
    net = Stage("train", TrainStage(PAIRS, NET, {"name": "erm"}, none, Mix(), Optim(), train, 0))
    stage.run(net, place)
    return place, net


def score(trained, split):
    place, net = trained
    one = Stage("evaluate", EvaluateStage(None, split, 32), {"net": net})
    stage.run(one, place)
    return json.loads((place.folder(one) / "result.json").read_text())


def test_training_shares_weigh_only_groups_that_training_has(trained):
    usual, hans = score(trained, "test"), score(trained, "hans")
    assert usual["train_group_counts"] and "adj_acc_avg" in usual["metrics"]
    assert len(hans["group_names"]) == 6 and hans["train_group_counts"] is None
    assert "adj_acc_avg" not in hans["metrics"]
    assert {"gap_attribute/subsequence", "acc_conflicting"} <= set(hans["metrics"])


def test_a_stage_is_read_back_from_its_folder_and_an_altered_one_refused(trained):
    place, net = trained
    assert stored.read(place.workdir, net.identity).identity == net.identity
    path = place.folder(net) / "config.json"
    original = path.read_text()
    path.write_text(original.replace('"steps": 2', '"steps": 3'))
    with pytest.raises(ValueError, match="altered"):
        stored.read(place.workdir, net.identity)
    path.write_text(original)
    with pytest.raises(ValueError, match=r"unknown stage .*'nothing'"):
        stored.read(place.workdir, "nothing")


def test_a_stage_is_named_by_its_first_digits(tmp_path):
    names = [f"{i:02}3456789a" for i in range(20)]
    for name in [*names, "123456bbbb"]:
        (tmp_path / "stages" / name).mkdir(parents=True)
        (tmp_path / "stages" / name / "config.json").write_text("{}")
    assert stored.find(tmp_path, "033456") == "033456789a"
    assert stored.find(tmp_path, "123456789a") == "123456789a"
    with pytest.raises(ValueError, match=r"'123456' .* may be 123456789a, 123456bbbb: give more"):
        stored.find(tmp_path, "123456")
    with pytest.raises(UnknownName, match=r"'073465'.* 073456789a.* and 16 more$") as miss:
        stored.find(tmp_path, "073465")
    assert len(re.findall(r"3456789a", str(miss.value))) <= 6
    with pytest.raises(UnknownName, match="''"):
        stored.find(tmp_path, "")
    with pytest.raises(UnknownName, match="Choices: none"):
        stored.find(tmp_path / "nowhere", "123456")


def test_a_net_is_named_by_the_stage_that_scored_it(trained):
    place, net = trained
    score(trained, "test")
    one = Stage("evaluate", EvaluateStage(None, "test", 32), {"net": net})
    assert stored.read_net(place.workdir, one.identity[:6]).identity == net.identity
    assert stored.read_net(place.workdir, net.identity[:6]).identity == net.identity
