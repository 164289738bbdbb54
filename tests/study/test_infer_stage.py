"""What is inferred in a stage of its own: written once, by what was read, seen by later stages."""

import dataclasses

import jax
import numpy as np
import pytest

from fairkd_jax import files, registry, sharding
from fairkd_jax.config import (
    Data,
    Experiment,
    InferStage,
    Mix,
    Optim,
    Role,
    Stage,
    Study,
    TableStage,
    Train,
    TrainStage,
)
from fairkd_jax.data import pipeline
from fairkd_jax.data.tables import read_table, write_table
from fairkd_jax.study import check, execute, plan, reads, stage, stored
from fairkd_jax.train import drawn, loop

DIGITS = Data(set={"name": "colored_digits", "image_size": 8})
ROLE = Role({"name": "resnet", "preset": "tiny"}, train=Train(steps=4, batch_size=16, log_every=2))


def inferred(seed: int = 0, **options) -> Stage:
    none = ({"name": "none"},)
    config = TrainStage(
        DIGITS, ROLE.model, {"name": "erm"}, none, Mix(), Optim(), ROLE.train, seed=0
    )
    table = Stage("table", TableStage(("logits",)), {"net": Stage("train", config)})
    config = InferStage(DIGITS, {"name": "environments", "steps": 30, **options}, seed)
    return reads.sealed(Stage("infer", config, {"reference": table}))


def test_a_trainer_is_shown_inferred_attributes_in_place_of_hidden_ones(tmp_path):
    eiil = {"name": "eiil", "reference_share": 0.25, "split_steps": 30}
    asked = Experiment(data=DIGITS, teacher=ROLE, student=ROLE, debias=eiil)
    [run] = [r for r in check.check(Study(seeds=1, experiment=asked)) if r.role == "baseline"]
    assert not execute._row(run)["sees_attributes"]
    assert "infer" in execute.table_of_stages([run], tmp_path)

    place = stage.Place(tmp_path, sharding.make_mesh(devices=jax.devices()[:1]))
    one, config = run.net.inputs["attribute"], run.net.config
    columns = pipeline.open_data(DIGITS).drawn().split.columns
    logits = np.random.default_rng(0).normal(size=(len(columns["id"]), 2))
    before = one.inputs["reference"]  # as if its net had been asked
    write_table(place.folder(before) / "table", columns["id"], {"logits": logits}, {})
    for each in (before, before.inputs["net"]):
        place.folder(each).mkdir(exist_ok=True)
        files.write_json(place.folder(each) / stored.CONFIG, stored.about(each))
    stored.close(place.folder(before), {"seconds": 0, "examples": 0})
    (place.folder(one) / "table.partial-1").mkdir(parents=True)  # as one that was killed leaves it
    stage.run(one, place)
    table = read_table(place.folder(one) / "table")
    np.testing.assert_array_equal(table.id, np.sort(columns["id"]))

    assert config.debias == {"name": "group_dro"} and config.attributes == 2
    program, methods = loop.build(config, {})
    batch = drawn.batches(config, methods, program, {"attribute": table})[0]
    attribute = table.join(batch["id"])["attribute"]
    np.testing.assert_array_equal(batch["attribute"], attribute)
    np.testing.assert_array_equal(batch["group"], 2 * batch["label"] + attribute)
    assert "tables" not in batch
    counts = drawn.now_of(config, methods, {"attribute": table}).group_counts
    group = 2 * columns["label"] + table.join(columns["id"])["attribute"]
    np.testing.assert_array_equal(counts, np.bincount(group, minlength=len(counts)))

    closed = (place.folder(one) / stored.DONE).stat().st_mtime_ns
    stage.run(one, place)
    assert (place.folder(one) / stored.DONE).stat().st_mtime_ns == closed
    assert not stored.faults(place.folder(one), anew=True)
    assert stored.read(tmp_path, one.identity).identity == one.identity


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
    extra = {"swap": {"name": "attribute_swap", "count": 5}}
    one = inferred().change({"data.augment": extra})
    assert not one.inputs["reference"].config.augment
    covered = plan._covering(one)
    assert covered.inputs["reference"].config.augment == extra
    assert dataclasses.replace(one.config, data=DIGITS) == inferred().config
