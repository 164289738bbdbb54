"""What every source of bias must keep, whoever wrote it. `plugin` is its config."""

import dataclasses

import pytest

from fairkd_jax import registry
from fairkd_jax.config import TABLES, Data, Mix, Optim, Stage, Train, TrainStage
from fairkd_jax.debias.bias.base import Bias
from fairkd_jax.study import check, plan, reads

NET = {"name": "bert", "preset": "tiny", "depth": 1, "width": 16}
WORDS = {"name": "wordpiece", "length": 24, "vocab_size": 300}


@pytest.fixture
def source(plugin) -> Bias:
    return registry.build("bias", plugin)


def base(seed: int = 0, **changes) -> Stage:
    """A stage that trains a net on pairs of sentences, as the planner hands it to a method."""
    config = TrainStage(
        data=Data(
            set={"name": "template_nli", "train": 120, "eval": 60}, views={"wordpiece": WORDS}
        ),
        model=NET,
        debias={"name": "poe"},
        distill=({"name": "none"},),
        mix=Mix(),
        optim=Optim(),
        train=Train(steps=40, batch_size=8, select="val_worst_group"),
        seed=seed,
    )
    return Stage("train", config).change(changes)


def before_and(stage: Stage) -> list[Stage]:
    """The stage, after all that it hangs on."""
    return [*(one for each in stage.inputs.values() for one in before_and(each)), stage]


def test_a_stage_is_stable_and_its_nets_are_of_the_seed(source):
    one, again, other = source.stage(base()), source.stage(base()), source.stage(base(seed=1))
    assert one.identity == again.identity
    for each, twin in zip(before_and(one), before_and(other)):
        if each.kind == "train":
            assert (each.config.seed, twin.config.seed) == (0, 1)
            assert each.identity != twin.identity


def test_it_leaves_a_table_of_the_split_that_is_trained_on(source):
    for split in ("train", "val"):
        stage = source.stage(base(**{"data.split": split}))
        assert stage.kind in TABLES
        if stage.kind == "table":
            assert stage.config.split == split and "log_probs" in stage.config.columns
        else:
            assert stage.config.data.split == split


def test_it_knows_neither_method_nor_teacher(source):
    """So all losses, baselines and distilled students share what it trains."""
    teacher = base(**{"debias": {"name": "erm"}})
    taught = base(
        **{"debias": {"name": "dfl"}, "distill": ({"name": "logits"},), "mix.kd_weight": 0.5}
    ).hang(teacher=teacher, init=teacher)
    stage = source.stage(taught)
    assert stage.identity == source.stage(base()).identity
    for one in before_and(stage):
        if one.kind == "train":
            assert one.config.debias == {"name": "erm"} and one.config.train.select == "last"


def test_its_stages_pass_what_is_checked_before_any_compute(source):
    tried: set[str] = set()
    for one in before_and(reads.sealed(source.stage(base()).remade(plan._covering))):
        if one.kind in check.CHECKS:
            check.CHECKS[one.kind](one, tried)


def test_losses_take_it_alone_and_beside_others(source, plugin):
    for bias in (plugin, [plugin, {"name": "weak_learner", "share": 0.5}]):
        method = registry.build("debias", {"name": "poe", "bias": bias})
        hash(method.bias)
        stage = method.stages(base())
        assert stage.inputs["bias"].identity == source.stage(base()).identity
        assert {*method.tables} == {*stage.inputs}


def test_it_is_a_frozen_dataclass_of_options(source, plugin):
    assert dataclasses.is_dataclass(source) and source == registry.build("bias", plugin)
    hash(source)
