"""Large arrays are split over `fsdp`, small ones copied, in every family; numbers stay the same."""

import sys

import jax
import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests" / "train"))
import synthetic as s

from fairkd_jax import registry, sharding
from fairkd_jax.debias.erm import ERM
from fairkd_jax.distill.logits import Logits
from fairkd_jax.models.net import make_net
from fairkd_jax.train.step import compile_step, fresh_state

PARTS = 4
FAMILIES = registry.available("models")
LARGE = {"bert": "large", "resnet": "152", "t5": "large", "vit": "l16"}  # elsewhere the last one
IMAGE = {"height": 224, "width": 224, "channels": 3}


@pytest.fixture
def low_bar(monkeypatch):
    """Nets are small here, so less counts as large."""
    monkeypatch.setattr(sharding, "SMALLEST", 512)
    compile_step.cache_clear()
    yield sharding.SMALLEST
    compile_step.cache_clear()


def rollout(program, methods, teacher, mesh, steps=2):
    """(state, metrics of each step)."""
    run, seed = compile_step(program, mesh), np.uint32(0)
    put = [sharding.put_batch(s.batch(seed=i), mesh) for i in range(steps)]
    state = fresh_state(program, mesh, methods, s.numbers(), s.NOW, put[0], seed)
    metrics = []
    for batch in put:
        state, values = run(state, methods, s.numbers(), s.NOW, batch, {"teacher": teacher}, seed)
        metrics.append(jax.device_get(values))
    return state, metrics


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=pytest.mark.slow if f in ("t5", "vit") else ()) for f in FAMILIES],
)
def test_a_step_with_split_parameters_is_that_of_one_device(family, low_bar, capfd):
    """1e-5: float32 sums in another order; 1e-7: where teachers agree, a difference of logs."""
    net = s.small_net(family)
    program = s.program(net, (("teacher", net),))
    methods = s.methods(ERM(), (Logits(),))
    one, split = sharding.make_mesh(devices=jax.devices()[:1]), sharding.make_mesh(fsdp=PARTS)
    init = jax.jit(lambda key: net.init(key))
    places = sharding.state_shardings(net.variable_shapes(), split)
    teacher = init(jax.random.key(9))
    _, want = rollout(program, methods, teacher, one)
    state, got = rollout(program, methods, jax.device_put(teacher, places), split)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-7), got, want)

    (adam,) = (x for x in jax.tree.leaves(state.opt, is_leaf=_has_moments) if _has_moments(x))
    for tree in (state.params, adam.mu, adam.nu):
        leaves = jax.tree.leaves(tree)
        large = [x.size >= low_bar and any(n % PARTS == 0 for n in x.shape) for x in leaves]
        assert any(large) and not all(large)
        for x, split in zip(leaves, large):
            assert x.addressable_shards[0].data.size == (x.size // PARTS if split else x.size)
    assert "full rematerialization" not in capfd.readouterr().err  # activations stay in place


def _has_moments(x):
    return hasattr(x, "mu")


@pytest.mark.quick
@pytest.mark.parametrize("family", FAMILIES)
def test_of_a_large_net_little_is_copied(family):
    preset = LARGE.get(family, [*registry.plugin("models", family).presets][-1])
    net = make_net({"name": family, "preset": preset}, 2, s.FACTS | {"image": IMAGE})
    shapes = net.variable_shapes()
    places = sharding.state_shardings(shapes, sharding.make_mesh(fsdp=8))
    leaves = [*zip(jax.tree.leaves(shapes), jax.tree.leaves(places))]
    copied = sum(x.size for x, place in leaves if place.is_fully_replicated)
    assert copied < 0.02 * sum(x.size for x, _ in leaves)


@pytest.mark.quick
def test_a_path_without_a_rule_is_named():
    mesh = sharding.make_mesh(fsdp=2)
    array = jax.ShapeDtypeStruct((4, 4), np.float32)
    message = r"matches 'params/block00/gamma'[^$]*kernel\|embedding"
    with pytest.raises(ValueError, match=message):
        sharding.state_shardings({"params": {"block00": {"kernel": array, "gamma": array}}}, mesh)
    with pytest.raises(ValueError, match="fsdp = 3 does not divide 8 devices"):
        sharding.make_mesh(fsdp=3)


@pytest.mark.quick
def test_the_longest_axis_that_divides_is_split(monkeypatch):
    monkeypatch.setattr(sharding, "SMALLEST", 8)
    mesh = sharding.make_mesh(fsdp=4)

    def spec(*shape, name="kernel"):
        tree = {"params": {"layer": {name: jax.ShapeDtypeStruct(shape, np.float32)}}}
        return tuple(jax.tree.leaves(sharding.state_shardings(tree, mesh))[0].spec)

    assert spec(4, 8) == (None, "fsdp")
    assert spec(8, 9) == ("fsdp", None)
    assert spec(3, 3, 8, 16) == (None, None, None, "fsdp")
    assert spec(7, 9) == spec(4, 1) == spec(64, name="bias") == ()
