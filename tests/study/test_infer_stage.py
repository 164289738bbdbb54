"""What is inferred in a stage of its own: written once, by what was read, seen by later stages."""

import dataclasses

import jax
import numpy as np
import pytest

from fairkd_jax import registry, sharding
from fairkd_jax.config import Data, InferStage, Mix, Optim, Stage, TableStage, Train, TrainStage
from fairkd_jax.data import pipeline
from fairkd_jax.data.tables import read_table
from fairkd_jax.study import check, plan, reads, stage, stored

PAIRS = Data(
    set={"name": "template_nli", "train": 120, "eval": 60},
    views={"wordpiece": {"name": "wordpiece", "length": 24, "vocab_size": 300}},
)
NET = {"name": "bert", "preset": "tiny", "depth": 1, "width": 16}


def inferred(seed: int = 0, **options) -> Stage:
    none, train = ({"name": "none"},), Train(steps=0, batch_size=8)
    net = Stage("train", TrainStage(PAIRS, NET, {"name": "erm"}, none, Mix(), Optim(), train, 0))
    table = Stage("table", TableStage(("logits",)), {"net": net})
    config = InferStage(PAIRS, {"name": "environments", "steps": 30, **options}, seed)
    return reads.sealed(Stage("infer", config, {"reference": table}))


def test_a_stage_infers_columns_from_a_split_and_a_table(tmp_path):
    one = inferred()
    place = stage.Place(tmp_path, sharding.make_mesh(devices=jax.devices()[:1]))
    stages = [*one.inputs["reference"].inputs.values(), *one.inputs.values(), one]
    for each in stages[:2]:
        stage.run(each, place)
    place.folder(one).mkdir(parents=True)
    (place.folder(one) / "table.partial-1").mkdir()  # as one that was killed leaves it
    stage.run(one, place)

    found = read_table(place.folder(one) / "table")
    source = pipeline.open_data(PAIRS).drawn()
    np.testing.assert_array_equal(found.id, np.sort(source.split.columns["id"]))
    assert {*np.unique(found.columns["attribute"])} == {0, 1}
    batch = pipeline.train_batches(
        source, seed=0, steps=1, batch_size=8, tables={"attribute": found}, hide_attributes=True
    )[0]
    joined = batch["tables"]["attribute"]["attribute"]
    np.testing.assert_array_equal(joined, found.join(batch["id"])["attribute"])

    closed = (place.folder(one) / stored.DONE).stat().st_mtime_ns
    stage.run(one, place)
    assert (place.folder(one) / stored.DONE).stat().st_mtime_ns == closed
    assert not stored.faults(place.folder(one), anew=True)
    assert stored.read(tmp_path, one.identity) == one


@pytest.mark.quick
def test_its_identity_is_of_its_options_its_seed_and_its_inputs():
    one = inferred()
    others = [inferred(seed=1), inferred(steps=31), one.hang(reference=None)]
    assert len({each.identity for each in (one, inferred(), *others)}) == 4


@pytest.mark.quick
def test_what_it_cannot_read_is_told_before_any_compute():
    one = inferred()
    check.CHECKS["infer"](one, set())
    wrong = one.hang(reference=one.inputs["reference"].change({"columns": ("loss",)}))
    with pytest.raises(registry.UnknownName, match=r"'environments'.*'logits'.*: loss$"):
        check.CHECKS["infer"](wrong, set())
    with pytest.raises(ValueError, match="learning_rate = 0"):
        check.CHECKS["infer"](inferred(learning_rate=0.0), set())


@pytest.mark.quick
def test_its_tables_cover_the_extra_examples_that_it_is_given():
    extra = {"shuffled": {"name": "premise_shuffle", "count": 5}}
    one = inferred().change({"data.augment": extra})
    assert not one.inputs["reference"].config.augment
    covered = plan._covering(one)
    assert covered.inputs["reference"].config.augment == extra
    assert dataclasses.replace(one.config, data=PAIRS) == inferred().config
