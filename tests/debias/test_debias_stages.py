"""Methods of several stages: what depends on what, and that the same work has the same identity."""

import pytest

from fairkd_jax import registry
from fairkd_jax.config import Data, Mix, Optim, Stage, Train, TrainStage

pytestmark = pytest.mark.quick

LOGITS = ({"name": "logits", "temperature": 2.0},)


def base(name: str, *, teacher: bool = True, seed: int = 0, **options) -> Stage:
    """The stage that a planner hands to `stages`."""
    config = TrainStage(
        data=Data(),
        model={"name": "resnet", "preset": "tiny"},
        debias={"name": name, **options},
        distill=LOGITS if teacher else ({"name": "none"},),
        mix=Mix(kd_weight=0.9, task_weight=0.1) if teacher else Mix(),
        optim=Optim(),
        train=Train(steps=100, select="val_worst_group"),
        seed=seed,
    )
    erm = {"debias": {"name": "erm"}, "distill": {"name": "none"}, "model.preset": "18"}
    return Stage(
        "train", config, {"teacher": Stage("train", config).change(erm)} if teacher else {}
    )


def expand(stage: Stage) -> Stage:
    return registry.build("debias", stage.config.debias).stages(stage)


LONGER = {"bias": {"name": "weak_learner", "share": 0.33}}


@pytest.mark.parametrize(
    ("name", "table", "columns", "options"),
    [
        ("jtt", "mistakes", ("mistake",), {"identify_share": 0.33}),
        ("poe", "bias", ("log_probs", "logits"), LONGER),
        ("dfl", "bias", ("log_probs", "logits"), LONGER),
    ],
)
def test_a_first_net_writes_a_table_for_the_second(name, table, columns, options):
    stage = expand(base(name))
    assert stage.config == base(name).config
    assert set(stage.inputs) == {"teacher", table}
    written = stage.inputs[table]
    assert written.config.columns == columns and written.config.split == "train"
    first = written.inputs["net"]
    assert first.config.debias == {"name": "erm"} and first.config.distill == ({"name": "none"},)
    assert first.config.mix == Mix() and not first.inputs
    assert first.config.train.steps == 20 and first.config.train.select == "last"
    assert first.config.seed == 0

    longer = expand(base(name, **options)).inputs[table].inputs["net"]
    assert longer.config.train.steps == 33

    # The first net knows no teacher: a baseline and a distilled student share it.
    alone = expand(base(name, teacher=False))
    assert alone.inputs[table].identity == written.identity
    assert set(alone.inputs) == {table}


def test_jtt_identifies_from_where_the_second_net_starts():
    weights = base("erm", teacher=False)
    stage = expand(base("jtt").hang(init=weights))
    identify = stage.inputs["mistakes"].inputs["net"]
    assert identify.inputs["init"].identity == weights.identity and "teacher" not in identify.inputs


def test_a_weak_learner_may_have_a_model_of_its_own():
    weak = {"preset": "mini", "name": "bert"}
    stage = expand(base("poe", bias={"name": "weak_learner", "model": weak}))
    assert stage.inputs["bias"].inputs["net"].config.model == weak
    turned = {"model": dict(reversed(weak.items())), "name": "weak_learner"}
    assert stage.identity == expand(base("poe", bias=turned)).identity


def test_dfr_retrains_the_head_from_a_distilled_net():
    stage = expand(
        base("dfr", solver="gradient", head_share=0.07, head_learning_rate=0.5, split="val")
    )
    assert set(stage.inputs) == {"init"}
    config, features = stage.config, stage.inputs["init"]
    assert config.debias["name"] == "dfr"  # so that its check looks at the groups of the split
    assert config.distill == ({"name": "none"},) and config.mix == Mix()
    assert (config.data.split, config.data.sampler) == ("val", "group_balanced")
    assert config.train.trainable == "nets/student/head/.*" and config.train.deterministic
    assert (config.train.steps, config.train.select) == (7, "last")
    assert config.optim.learning_rate == 0.5
    assert features.config.debias == {"name": "erm"} and features.config.distill == LOGITS
    assert set(features.inputs) == {"teacher"}
    # The first stage is what plain ERM trains, so a study of both trains it once.
    assert features.identity == expand(base("erm")).identity


def test_dfr_fits_the_head_of_a_distilled_net_by_features_of_two_splits():
    stage = expand(base("dfr"))
    features = expand(base("erm"))  # trained once for both
    assert stage.kind == "refit" and stage.config.data.split == "val"
    assert stage.inputs["net"].identity == features.identity
    split_of = {k: one.config.split for k, one in stage.inputs.items() if k != "net"}
    assert split_of == {"train": "train", "features": "val"}
    assert {one.inputs["net"].identity for k, one in stage.inputs.items() if k != "net"} == {
        features.identity
    }
    with pytest.raises(registry.UnknownName, match=r"dfr.solver: 'newton'.*gradient, liblinear"):
        expand(base("dfr", solver="newton"))


def test_afr_holds_out_what_its_head_learns_from():
    stage = expand(base("afr", held_share=0.3))
    part, net = stage.inputs["part"], stage.inputs["net"]
    assert part.config.infer == {"name": "holdout", "share": 0.3}
    assert net.inputs["draw"].identity == part.identity and "teacher" in net.inputs
    assert net.config.debias == {"name": "erm"} and stage.config.debias["name"] == "afr"
