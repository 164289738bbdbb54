"""Any optimizer of optax does what it does there, with its options traced, split and resumed."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import synthetic as s

from fairkd_jax import recipe, registry, sharding
from fairkd_jax.config import Optim, content_of, parse, update
from fairkd_jax.debias.erm import ERM
from fairkd_jax.models.net import leaves, make_net
from fairkd_jax.registry import UnknownName
from fairkd_jax.train import optim, step
from fairkd_jax.train.checkpoint import Checkpoints
from fairkd_jax.train.step import compile_step, fresh_state

pytestmark = pytest.mark.quick

ONE = sharding.make_mesh(devices=jax.devices()[:1])
RATE, DECAY = 0.03, 0.2
OWN_DECAY = ("adamw", "adamaxw", "adan", "lamb", "lion", "nadamw", "lars", "adadelta")
WARNS = ("noisy_sgd", "optimistic_adam")  # of a key that it will need; that it is deprecated
OPTIMIZERS = [name for name in recipe.optimizers() if name not in WARNS]


def params() -> dict:
    rng = np.random.default_rng(0)
    layer = {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)}
    return jax.tree.map(np.float32, {"nets": {"student": {"head": layer}}})


def matrices(tree):
    return jax.tree.map(lambda x: x.ndim > 1, tree)


def moved(transformation, steps: int = 3) -> dict:
    """The parameters after a few steps on gradients that differ."""
    at = params()
    state = transformation.init(at)
    for i in range(steps):
        gradient = jax.tree.map(lambda x, i=i: jnp.sin(x + i), at)
        updates, state = transformation.update(gradient, state, at)
        at = optax.apply_updates(at, updates)
    return at


def ours(given: Optim, rate: float = RATE):
    return optim.optimizer(optim.rule_of(given), optim.numbers(given, rate), jnp.float32(0.5))


def of_optax(name: str, **options):
    """With the numbers in float32, as steps have them: 1 - 0.999 is then another number."""
    options = recipe.defaults(name) | options
    numbers = {k for k, v in options.items() if isinstance(v, float)}
    options |= {k: np.float32(options[k]) for k in numbers}
    return getattr(optax, name)(np.float32(RATE), **options)


def same(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_does_what_it_does_in_optax(name):
    given = Optim(name, weight_decay=DECAY, schedule="constant")
    optim.check(given)
    if name in OWN_DECAY:
        mask = {"mask", "weight_decay_mask"} & {*recipe.signature(name)}
        want = of_optax(name, weight_decay=DECAY, **{mask.pop(): matrices})
    else:
        want = optax.chain(optax.add_decayed_weights(DECAY, matrices), of_optax(name))
    same(moved(ours(given)), moved(want), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(
    "given",
    [
        {"name": "rmsprop", "decay": 0.7, "centered": True, "momentum": 0.5},
        {"name": "adan", "b1": 0.5, "b3": 0.6},
        {"name": "sgd", "momentum": 0.3, "nesterov": True},
        {"name": "adam", "eps_root": 0.1, "mu_dtype": "bfloat16"},
    ],
)
def test_options_are_the_optimizers_own(given):
    same(moved(ours(parse(Optim, given))), moved(of_optax(**given)), rtol=2e-6)


def test_decay_that_no_rate_scales_may_have_a_schedule():
    optim.check(parse(Optim, {"name": "adafactor", "weight_decay_rate": 0.1}))


def test_b1_is_the_momentum_where_there_is_no_b1():
    same(moved(ours(Optim("sgd", b1=0.3))), moved(optax.sgd(RATE, 0.3)), rtol=1e-6)
    same(moved(ours(Optim("sgd"))), moved(optax.sgd(RATE, 0.9)), rtol=1e-6)


SWEEPS = {
    "options": ({}, {"b1": 0.5}, {"b2": 0.9, "weight_decay": 0.1, "learning_rate": 0.5}),
    "rates": ({"rates": {".*/head/.*": 2.0}}, {"rates": {".*/head/.*": 0.0}}),
    "average": ({"ema": 0.9}, {"ema": 0.99}),
    "layers": ({"layer_decay": 0.5}, {"layer_decay": 0.9}),
}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_step_is_traced_once_for_all_numbers_of_an_optimizer(sweep, monkeypatch):
    traces = []
    original = step.train_step
    monkeypatch.setattr(step, "train_step", lambda *a: traces.append(1) or original(*a))
    compile_step.cache_clear()
    net, methods = s.small_net("resnet"), s.methods(ERM())
    for given in SWEEPS[sweep]:
        ema = given.get("ema", 0.0)
        given = parse(Optim, {"name": "lion", **{k: v for k, v in given.items() if k != "ema"}})
        rule = optim.rule_of(given, order=net.architecture.order())
        program = step.Program(net, rule, (), s.ATTRIBUTES, s.EXAMPLES)
        numbers, batch = optim.numbers(given, given.learning_rate, ema), s.batch()
        state = fresh_state(program, ONE, methods, numbers, s.NOW, batch, np.uint32(0))
        compile_step(program, ONE)(state, methods, numbers, s.NOW, batch, {}, np.uint32(0))
    compile_step.cache_clear()
    assert len(traces) == 1


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb"])
def test_rates_by_path_are_learning_rates_of_their_own(name):
    """As under optax.partition, with a rate for kernels and another one for biases."""
    rates = {"nets/.*/kernel": 0.1, "nets/student/head/bi.*": 10.0}
    given = Optim(name, weight_decay=DECAY, rates=rates)
    alone = {
        label: ours(Optim(name, weight_decay=DECAY, learning_rate=RATE * factor), RATE * factor)
        for label, factor in (("kernel", 0.1), ("bias", 10.0))
    }

    def labels(tree):
        return jax.tree_util.tree_map_with_path(lambda keys, _: keys[-1].key, tree)

    same(moved(ours(given)), moved(optax.partition(alone, labels)), rtol=2e-6)


FAMILIES = {
    "bert": {"head": 0, "pooler": 0, "block01": 1, "block00": 2, "embed": 3},
    "vit": {"head": 0, "norm": 0, "block01": 1, "block00": 2, "embed": 3},
    "resnet": {"head": 0, "stage2/block1": 1, "stage1/block1": 2, "stem": 3},
    "t5": {"head": 0, "dec/block00": 1, "enc/block01": 2, "enc/norm": 2, "enc/block00": 3}
    | {"embed": 4, "enc/relative": 4, "dec/relative": 4},
}


@pytest.mark.parametrize("family", registry.available("models"))
def test_the_rate_decays_from_the_head_to_what_embeds(family):
    net = make_net({"name": family, "preset": "tiny"}, 2, s.FACTS)
    params = {"nets": {"student": net.variable_shapes()["params"]}, "debias": {"w": jnp.ones(2)}}
    given = Optim(layer_decay=0.5, rates={".*/head/.*": 4.0})
    rule, numbers = optim.rule_of(given, order=net.architecture.order()), optim.numbers(given, 1.0)
    made = leaves(optim.factors(params, rule, numbers))
    assert made.keys() == leaves(params).keys() and made["debias/w"] == 1
    for path, below in FAMILIES.get(family, {}).items():
        got = {float(v) for k, v in made.items() if k.startswith(f"nets/student/{path}/")}
        assert got == {0.5**below * (4 if path == "head" else 1)}, path


def test_a_pattern_says_where_it_fits_ill():
    def factors(**rates):
        given = Optim(rates=rates)
        return optim.factors(params(), optim.rule_of(given), optim.numbers(given, 1.0))

    with pytest.raises(ValueError, match=r"'nets/haed.*matches none.*nets/student/head/kernel"):
        factors(**{"nets/haed.*": 1.0})
    with pytest.raises(
        ValueError, match=r"one: .*'nets/student/head/bias': \['.*bias', 'nets.*'\]"
    ):
        factors(**{".*bias": 1.0, "nets.*": 2.0})
    with pytest.raises(ValueError, match=r"'nets\(' is no regular expression"):
        factors(**{"nets(": 1.0})
    with pytest.raises(ValueError, match=r"layer_decay = 0\.9, but the net does not say"):
        optim.rule_of(Optim(layer_decay=0.9))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_of_any_form_are_split_and_come_back(name, monkeypatch, tmp_path):
    monkeypatch.setattr(sharding, "SMALLEST", 32)
    mesh = sharding.make_mesh(fsdp=4)
    options = {"min_dim_size_to_factor": 2} if name == "adafactor" else {}
    given = Optim(name, options=options)
    made = optim.optimizer(optim.rule_of(given), optim.numbers(given, RATE))
    at = jax.tree.map(lambda x: jnp.ones((64, *x.shape)), params())
    state = made.update(at, made.init(at), at)[1]
    placed = jax.device_put({"opt": state}, sharding.state_shardings({"opt": state}, mesh))
    if any(x.shape == (64, 4, 3) for x in jax.tree.leaves(state)):
        assert any(not x.sharding.is_fully_replicated for x in jax.tree.leaves(placed))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, placed, {})
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    (found, _) = checkpoints.restore(jax.tree.map(jnp.zeros_like, placed))
    checkpoints.close()
    assert jax.tree.structure(found) == jax.tree.structure(placed)
    same(found, placed, rtol=0)


@pytest.mark.parametrize("name", ["adafactor", "sm3"])
def test_a_step_with_a_split_state_is_that_of_one_device(name, monkeypatch):
    monkeypatch.setattr(sharding, "SMALLEST", 64)
    options = {"min_dim_size_to_factor": 4} if name == "adafactor" else {}
    given, losses = Optim(name, options=options), []
    for mesh in (ONE, sharding.make_mesh(fsdp=4)):
        compile_step.cache_clear()
        program = step.Program(s.small_net("resnet"), optim.rule_of(given), (), s.ATTRIBUTES)
        batch, seed, methods = sharding.put_batch(s.batch(), mesh), np.uint32(0), s.methods(ERM())
        numbers = optim.numbers(given, RATE)
        state = fresh_state(program, mesh, methods, numbers, s.NOW, batch, seed)
        run = compile_step(program, mesh)
        for _ in range(3):
            state, metrics = run(state, methods, numbers, s.NOW, batch, {}, seed)
        losses.append(float(metrics["loss"]))
    compile_step.cache_clear()
    np.testing.assert_allclose(*losses, rtol=1e-5)  # float32 sums in another order


@pytest.mark.parametrize(
    "given, message",
    [
        ({"name": "adm"}, "optim.name 'adm'.*Did you mean 'adam'"),
        ({"name": "lbfgs"}, "in a step gradients alone.*'lbfgs'.*adamw"),
        ({"name": "polyak_sgd"}, "in a step gradients alone.*'polyak_sgd'"),
        ({"name": "chain"}, "no optimizer that takes a learning rate.*'chain'"),
        ({"name": "lion", "decay": 0.9}, "option of optim 'lion': 'decay'.*b1, b2, mu_dtype"),
        ({"name": "sgd", "b1": 0.9, "momentum": 0.9}, "option of optim 'sgd': 'b1'"),
        ({"name": "adamw", "b2": 1.0}, "optim.b2 of 'adamw' = 1.0.*share"),
        ({"name": "rmsprop", "decay": "high"}, "optim.decay.*'high'.*number"),
        ({"name": "rmsprop", "centered": 1}, "optim.centered.*1: expected a bool"),
        ({"name": "adam", "mu_dtype": "bfloat17"}, "'adam' cannot be made.*bfloat17"),
        ({"name": "rprop"}, "'rprop' reads its learning rate only at the start"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1.*at least 0"),
        ({"layer_decay": 0.0}, "layer_decay = 0.0.*above 0"),
        ({"rates": {".*": -1.0}}, r"rates\['\.\*'\] = -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate = nan"),
    ],
)
def test_what_cannot_be_is_refused_with_the_choices(given, message):
    with pytest.raises(ValueError, match=message):
        optim.check(parse(Optim, given))


def test_a_key_of_no_optimizer_is_refused_where_it_stands():
    with pytest.raises(UnknownName, match=r"key in config.*'momentun'.*'momentum'"):
        parse(Optim, {"name": "sgd", "momentun": 0.9})
    changed = update(parse(Optim, {"name": "rmsprop", "decay": 0.9}), {"decay": 0.5, "b1": None})
    assert changed.own()["decay"] == 0.5


def test_identities_of_before_stay():
    numbers = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
    before = {
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup": 0.0,
        "weight_decay": 0.0,
        "clip_norm": 1.0,
    }
    for name in ("adamw", "sgd"):
        assert content_of(Optim(name)) == {"name": name} | before | numbers
        assert content_of(Optim(name, **numbers)) == {"name": name} | before | numbers
    assert content_of(Optim("lion"))["b2"] == 0.99  # what it is given, not what sgd had
