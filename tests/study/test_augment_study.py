"""Augmentation in a study: who is trained with it, what tables hold, what goes on where it was."""

import jax
import numpy as np
import pytest

from fairkd_jax import processes, sharding
from fairkd_jax.config import Data, Experiment, Role, Study, Train, content_of, update
from fairkd_jax.data import pipeline
from fairkd_jax.data.tables import read_table
from fairkd_jax.study import about, check, plan, stage
from fairkd_jax.train import checkpoint, loop

SWAP = {"swap": {"name": "attribute_swap", "count": 100}}
JITTER = {"jitter": {"name": "colour_jitter"}}
MESH = sharding.make_mesh(devices=jax.devices()[:1])


def study(*augment, **overrides) -> Study:
    """A study of one axis, whose values are augmentations."""
    train = Train(steps=4, batch_size=16, log_every=2, checkpoint_every=2)
    role = Role({"name": "resnet", "preset": "tiny"}, train=train)
    data = Data(set={"name": "colored_digits", "image_size": 8})
    experiment = update(Experiment(data=data, teacher=role, student=role), overrides)
    values = [{"label": f"{i}", "data.augment": one} for i, one in enumerate(augment)]
    return Study(seeds=1, experiment=experiment, axes={"augment": tuple(values)})


def nets(planned, role):
    return [run.net for run in planned if run.role == role]


@pytest.mark.quick
def test_a_config_without_it_is_what_it_was():
    assert "augment" not in content_of(Data())
    assert "augment" not in content_of(plan.TableStage(("logits",)))
    assert "augment" in content_of(Data(augment=SWAP))


@pytest.mark.quick
def test_roles_say_which_nets_are_trained_with_it():
    distilled = {"swap": SWAP["swap"] | {"roles": ("distilled",)}}
    planned = plan.runs(study({}, distilled, SWAP))
    assert [len({net.identity for net in nets(planned, r)}) for r in loop_roles()] == [2, 2, 3]
    trained = nets(planned, "distilled")
    assert trained[0].config.data.augment == {}
    assert trained[1].config.data.augment == trained[2].config.data.augment == SWAP
    by_name = {run.name: about._row(run)["sees_attributes"] for run in planned}
    assert sorted(by_name.values()) == [False] * 5 + [True] * 4
    assert check.check(study(distilled))


@pytest.mark.quick
def test_extra_examples_are_counted():
    told = about._data(plan.runs(study({}, SWAP, **{"debias": {"name": "erm"}})))["in_domain"]
    train, extra = told["train"]["counts"], told["extra, swap"]["counts"]
    assert sum(extra) == 100 and not told["extra, swap"]["left_out"]
    assert np.argmax(extra) != np.argmax(train)  # digits whose colour was common, in the other


def loop_roles():
    return ("teacher", "baseline", "distilled")


@pytest.mark.quick
def test_tables_tell_of_extra_examples_and_changes_have_the_teacher_live():
    rates = [{"swap": SWAP["swap"] | {"rate": r, "roles": ("distilled",)}} for r in (0.1, 0.4)]
    first, second = nets(plan.runs(study(*rates)), "distilled")
    assert first.identity != second.identity
    table = first.inputs["teacher_logits"]
    assert table.identity == second.inputs["teacher_logits"].identity
    assert table.config.augment == {"swap": {"name": "attribute_swap", "count": 100}}
    [live] = nets(plan.runs(study(SWAP | JITTER)), "distilled")
    assert {*live.inputs} == {"teacher"}
    [jtt] = nets(plan.runs(study(SWAP, debias={"name": "jtt"})), "distilled")
    assert {one.config.augment["swap"]["name"] for one in jtt.inputs.values()} == {"attribute_swap"}
    [dfr] = nets(plan.runs(study(SWAP, debias={"name": "dfr"})), "teacher")
    assert dfr.config.data.augment == {} and dfr.inputs["net"].config.data.augment == SWAP


@pytest.mark.quick
@pytest.mark.parametrize("debias", ["jtt", "mixup"])
def test_examples_are_not_mixed_where_that_cannot_be(debias):
    one = study({"cutmix": {"name": "cutmix"}}, debias={"name": debias})
    with pytest.raises(ValueError, match=f"augment.cutmix mixes .*debias '{debias}'.*leave out"):
        check.check(one)


def weights(place, one):
    net = loop.net_of(one.config.data, one.config.model)
    return jax.device_get(checkpoint.load_net(place.folder(one) / "net", net.variable_shapes()))


def test_distilled_from_the_table_is_distilled_live(tmp_path):
    [run] = [r for r in check.check(study(SWAP)) if r.role == "distilled"]
    place, net = stage.Place(tmp_path, MESH), run.net
    for one in plan.stages([run]):
        if one.kind in ("train", "table"):
            stage.run(one, place)
    table = net.inputs["teacher_logits"]
    found = read_table(place.folder(table) / "table")
    source = pipeline.open_data(net.config.data).drawn()
    np.testing.assert_array_equal(found.id, np.sort(source.split.columns["id"]))
    live = net.hang(teacher_logits=None, teacher=table.inputs["net"])
    stage.run(live, place)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        weights(place, live),
        weights(place, net),
    )


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    [run] = [r for r in check.check(study(SWAP | JITTER)) if r.role == "baseline"]
    left = [3]

    def stopping():
        left[0] -= 1
        return left[0] == 0

    config, net = run.net.config, loop.net_of(run.net.config.data, run.net.config.model)
    loop.run(config, tmp_path / "unbroken", MESH)
    with pytest.raises(processes.Interrupted, match="step 3 of 4"):
        loop.run(config, tmp_path / "stopped", MESH, stopping=stopping)
    loop.run(config, tmp_path / "stopped", MESH)
    first, second = (
        checkpoint.load_net(tmp_path / k / "net", net.variable_shapes())
        for k in ("unbroken", "stopped")
    )
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(first), jax.device_get(second))
