"""What is inferred in a stage of its own: written once, by what was read, seen by later stages."""

import dataclasses

import jax
import numpy as np
import pytest

from fairkd_jax import files, registry, sharding
from fairkd_jax.config import (
    Data,
    InferStage,
    Mix,
    Optim,
    Role,
    Stage,
    TableStage,
    Train,
    TrainStage,
)
from fairkd_jax.data import pipeline
from fairkd_jax.data.samplers import NEVER
from fairkd_jax.data.tables import read_table, write_table
from fairkd_jax.models.net import leaves
from fairkd_jax.study import check, plan, reads, stage, stored
from fairkd_jax.train import checkpoint, drawn, loop

DIGITS = Data(set={"name": "colored_digits", "image_size": 8})
SWAP = {"swap": {"name": "attribute_swap", "count": 5}}
ROLE = Role({"name": "resnet", "preset": "tiny"}, train=Train(steps=4, batch_size=16, log_every=2))


def base(**debias) -> Stage:
    none = ({"name": "none"},)
    return Stage(
        "train", TrainStage(DIGITS, ROLE.model, debias, none, Mix(), Optim(), ROLE.train, seed=0)
    )


def staged(**debias) -> Stage:
    """The last stage of a method."""
    return reads.sealed(registry.build("debias", debias).stages(base(**debias)))


def inferred(seed: int = 0, **options) -> Stage:
    table = Stage("table", TableStage(("logits",)), {"net": base(name="erm")})
    config = InferStage(DIGITS, {"name": "environments", "steps": 30, **options}, seed)
    return reads.sealed(Stage("infer", config, {"reference": table}))


def test_a_trainer_is_shown_inferred_attributes_in_place_of_hidden_ones(tmp_path):
    net = staged(name="eiil", reference_share=0.25, split_steps=30)
    place = stage.Place(tmp_path, sharding.make_mesh(devices=jax.devices()[:1]))
    one, config = net.inputs["attribute"], net.config
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
    jitter = {"data.augment": {"jitter": {"name": "colour_jitter", "rate": 1.0}}}
    changed = net.change(jitter).config
    other = drawn.batches(changed, methods, program, {"attribute": table})[0]
    np.testing.assert_array_equal(other["group"], batch["group"])
    assert any(np.any(v != other["views"]["image"][k]) for k, v in batch["views"]["image"].items())
    with pytest.raises(ValueError, match=r"\['swap'\] gives extra examples"):
        drawn.source_of(net.change({"data.augment": SWAP}).config, {"attribute": table})
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
    one = inferred().change({"data.augment": SWAP})
    assert not one.inputs["reference"].config.augment
    covered = one.remade(plan._covering)
    assert covered.inputs["reference"].config.augment == SWAP
    assert dataclasses.replace(one.config, data=DIGITS) == inferred().config


def test_a_refit_stage_leaves_the_net_with_another_head(tmp_path):
    one, place = staged(name="afr", head_steps=3), stage.Place(tmp_path, sharding.make_mesh())
    check.CHECKS[one.kind](one, set())
    net = loop.net_of(DIGITS, ROLE.model)
    before = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), net.variable_shapes())
    checkpoint.save_net(place.folder(one.inputs["net"]) / "net", before)
    columns = pipeline.open_data(DIGITS).drawn().split.columns
    width = before["params"]["head"]["kernel"].shape[0]
    features = np.random.default_rng(0).normal(size=(len(columns["id"]), width))
    answers = place.folder(one.inputs["features"]) / "table"
    write_table(answers, columns["id"], {"features": np.float32(features)}, {})
    for name in ("net", "features"):
        stored.close(place.folder(one.inputs[name]), {"seconds": 0, "examples": 0})
    for each in (one.inputs["part"], one):
        stage.run(each, place)

    held = read_table(place.folder(one.inputs["part"]) / "table").columns
    assert np.array_equal(held["held"] == 1, held["first"] == NEVER) and held["held"].any()
    found, after = place.net(one)
    assert found == net
    old, new = (leaves(jax.device_get(variables)) for variables in (before, after))
    changed = {path for path in old if not np.array_equal(old[path], new[path])}
    assert changed == {"params/head/kernel", "params/head/bias"}
    assert stored.state_of(one, tmp_path) == "done"


PLUGIN = '''
import dataclasses
from fairkd_jax.debias.inference import Inference

@dataclasses.dataclass(frozen=True)
class Mine(Inference):
    """Columns of somebody else."""
    {hook} = lambda self, examples, tables, seed: {{"one": examples.columns["label"]}}
'''


@pytest.mark.quick
def test_code_from_outside_is_part_of_what_it_reads(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "inferring").mkdir()
    for name, hook in (("others", "columns"), ("no_one", "rows")):
        (tmp_path / "inferring" / f"{name}.py").write_text(PLUGIN.format(hook=hook))
    config = InferStage(DIGITS, {"name": "inferring.others"}, 0)
    assert "code inferring.others" in reads.sealed(Stage("infer", config)).reads
    with pytest.raises(registry.Faulty, match=r"line 6: TypeError: Mine says.*define `columns`"):
        registry.build("infer", {"name": "inferring.no_one"})
