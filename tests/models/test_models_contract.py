"""What holds for every family in models/, and what a Net does whatever its family."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fairkd_jax import registry
from fairkd_jax.models import layers
from fairkd_jax.models.net import Architecture, Net, make_net
from fairkd_jax.models.tape import Edit, Mix, Tape
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Outputs

B, T, C = 4, 6, 3
WORDS = {"vocab_size": 30, "length": T}
FACTS = {
    "wordpiece": WORDS | {"identity": "words"},
    "unigram": WORDS | {"identity": "pieces", "label_tokens": ((5, 1), (6, 7, 1), (6, 8, 1))},
    "image": {"height": 8, "width": 8, "channels": 3, "identity": "image"},
}
FAMILIES = registry.available("models")
VOCABULARY = (  # see tape.py; a family of its own adds prefixes
    r"input|(enc/|dec/)?embed|stem|features|lm_logits|(enc|dec)/out|stage\d+/block\d+/out"
    r"|(enc/|dec/)?block\d\d/(attn_probs|head_out|attn_out|cross_probs|cross_head_out|cross_out"
    r"|mlp_out|out)"
)


def make_batch(rows=B):
    rng = np.random.default_rng(0)
    mask = np.arange(T)[None, :] < rng.integers(2, T + 1, rows)[:, None]
    words = {
        "tokens": rng.integers(1, 30, (rows, T)).astype(np.int32),
        "mask": mask.astype(np.int32),
        "segments": rng.integers(0, 2, (rows, T)).astype(np.int32),
    }
    views = {
        "wordpiece": words,
        "unigram": words,
        "image": {"pixels": rng.normal(size=(rows, 8, 8, 3)).astype(np.float32)},
    }
    return jax.tree.map(jnp.asarray, {"views": views})


def tiny(name, **options):
    return make_net({"name": name, "preset": "tiny", **options}, C, FACTS)


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    """(net, variables, batch) of a family's smallest preset."""
    net = tiny(request.param)
    return net, jax.jit(net.init)(jax.random.key(0)), make_batch()


def test_init_apply_shapes(case):
    net, variables, batch = case
    assert jax.tree.map(lambda x: (x.shape, x.dtype), variables) == jax.tree.map(
        lambda x: (x.shape, x.dtype), net.variable_shapes()
    )
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))
    apply = jax.jit(net.apply, static_argnames=("train", "save"))
    outputs, stats = apply(variables, batch, train=False, save=".*")
    assert jax.tree.all(jax.tree.map(jnp.array_equal, stats, variables["stats"]))
    shapes = net.shapes(batch, save=".*")
    assert jax.tree.map(jnp.shape, outputs) == jax.tree.map(lambda x: x.shape, shapes)
    assert outputs.logits.shape == (B, C) and outputs.features.shape[0] == B
    assert all(re.fullmatch(VOCABULARY, name) for name in outputs.taps), list(outputs.taps)
    assert {"input", "features"} <= set(outputs.taps)
    np.testing.assert_array_equal(outputs.taps["features"], outputs.features)

    key = jax.random.key(3)
    trained, moved = apply(variables, batch, train=True, key=key)
    again, _ = apply(variables, batch, train=True, key=key)
    assert np.isfinite(trained.logits).all() and trained.logits.dtype == jnp.float32
    np.testing.assert_array_equal(trained.logits, again.logits)
    assert jax.tree.structure(moved) == jax.tree.structure(variables["stats"])
    assert bool(np.any(trained.logits != outputs.logits))


def test_hash_by_value(case):
    net, _, _ = case
    name = type(net.architecture).__module__.rsplit(".", 1)[1]
    assert net == tiny(name) and hash(net) == hash(tiny(name))
    assert net != Net(net.architecture, C + 1, net.view)


def test_every_preset_is_an_architecture(case):
    family = type(case[0].architecture)
    for preset in family.presets:
        assert isinstance(family(**family.presets[preset]), family)


def test_key_tables_name_every_module_or_variable(case):
    net, variables, _ = case
    paths = [
        jax.tree_util.keystr(p, simple=True, separator="/").split("/", 1)[1]
        for p, _ in jax.tree.leaves_with_path(variables)
    ]
    for names in net.architecture.published_names():
        assert not [p for p in paths if p not in names and p.rsplit("/", 1)[0] not in names]


def test_one_trace_for_two_calls(case):
    net, variables, batch = case
    traces = []

    @jax.jit
    def step(variables, batch, key):
        traces.append(1)
        return net.apply(variables, batch, train=True, key=key)

    for seed in range(2):
        _, stats = step(variables, batch, jax.random.key(seed))
        variables = {"params": variables["params"], "stats": stats}
    assert len(traces) == 1


def test_lanes_equal_single_runs(case):
    net, variables, batch = case
    keys = jax.random.split(jax.random.key(0), 2)
    lanes = jax.tree.map(lambda x: jnp.stack([x, 1.1 * x]), variables)
    run = jax.jit(lambda v, k: net.apply(v, batch, train=True, key=k)[0].logits)
    both = jax.jit(jax.vmap(run))(lanes, keys)
    for i, key in enumerate(keys):
        one = run(jax.tree.map(lambda x, i=i: x[i], lanes), key)
        np.testing.assert_allclose(both[i], one, rtol=1e-4, atol=1e-5)


def test_unknown_edit_save_and_view(case):
    net, variables, batch = case
    with pytest.raises(UnknownName, match=r"featurs.*features"):
        net.apply(variables, batch, train=False, edits={"featurs": Edit(0.0)})
    with pytest.raises(UnknownName, match="featurs"):
        net.apply(variables, batch, train=False, save="featurs")
    with pytest.raises(UnknownName, match="view of the batch"):
        net.apply(variables, {"views": {}}, train=False)


def test_edit_replaces_and_mix_mixes(case):
    net, variables, batch = case
    clean, _ = net.apply(variables, batch, train=False, save="features|input")
    other = clean.features[::-1]
    rows = jnp.array([1, 0, 0, 0])[:, None]  # only the first example is patched
    patched, _ = net.apply(variables, batch, train=False, edits={"features": Edit(other, rows)})
    np.testing.assert_array_equal(patched.features[0], other[0])
    np.testing.assert_array_equal(patched.logits[1:], clean.logits[1:])
    np.testing.assert_allclose(patched.logits[0], clean.logits[3], rtol=1e-5, atol=1e-6)
    mix = Mix(jnp.array([1, 0, 3, 2]), jnp.array([1.0, 0.0, 0.25, 0.5]))
    mixed, _ = net.apply(variables, batch, train=False, save="input", edits={"input": mix})
    x = np.asarray(clean.taps["input"])
    np.testing.assert_allclose(mixed.taps["input"][0], x[0], rtol=1e-6)
    np.testing.assert_allclose(mixed.taps["input"][2], 0.25 * x[2] + 0.75 * x[3], rtol=1e-4)


def test_gradients_flow_through_taps_and_edits(case):
    net, variables, batch = case
    clean, _ = net.apply(variables, batch, train=False, save=".*out|features")
    name = next(n for n in clean.taps if n.endswith("/out"))

    @jax.jit
    def score(value):
        outputs, _ = net.apply(
            variables, batch, train=False, save="features", edits={name: Edit(value)}
        )
        return jnp.sum(outputs.logits[:, 0]) + jnp.sum(outputs.taps["features"][0])

    value = clean.taps[name]
    slope = jax.grad(score)(value)
    assert slope.shape == value.shape and float(jnp.abs(slope).max()) > 0
    step = 1e-2 * slope / jnp.linalg.norm(slope)
    ratio = (score(value + step) - score(value - step)) / (2 * jnp.vdot(slope, step))
    assert 0.9 < float(ratio) < 1.1  # a finite difference in float32


def test_bfloat16_computes_float32_logits_close_to_float32(case):
    net, variables, batch = case
    name = type(net.architecture).__module__.rsplit(".", 1)[1]
    half = tiny(name, dtype="bfloat16")
    want, _ = net.apply(variables, batch, train=False)
    got, _ = half.apply(variables, batch, train=False, save=".*/out")
    assert got.logits.dtype == got.features.dtype == jnp.float32
    assert {x.dtype for x in got.taps.values()} == {jnp.dtype("bfloat16")}
    assert jax.tree.map(jnp.shape, half.variable_shapes()) == jax.tree.map(jnp.shape, variables)
    scale = float(jnp.abs(want.features).max())  # 8 bits of mantissa, a few layers
    np.testing.assert_allclose(got.features, want.features, atol=0.05 * scale)
    assert float(jnp.abs(got.features - want.features).max()) > 0
    with pytest.raises(UnknownName, match=r"float16.*bfloat16, float32"):
        tiny(name, dtype="float16")


def test_asking_for_everything_changes_nothing(case, monkeypatch):
    """Attention is explicit where its probabilities are asked for; else fused, but on CPU."""
    net, variables, batch = case
    explicit, _ = net.apply(variables, batch, train=False, save=".*")
    monkeypatch.setattr(layers, "_on_cpu", lambda: False)
    fused, _ = net.apply(variables, batch, train=False, save=".*/out")
    np.testing.assert_allclose(fused.logits, explicit.logits, rtol=1e-5, atol=1e-6)
    for name, tap in fused.taps.items():
        np.testing.assert_allclose(tap, explicit.taps[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_padding_changes_nothing(case):
    net, variables, batch = case
    want, _ = net.apply(variables, batch, train=False)
    arrays = dict(batch["views"][net.view])
    if "mask" in arrays:  # more tokens: whatever they are, they are masked
        longer = {k: jnp.pad(v, ((0, 0), (0, 3))) for k, v in arrays.items()}
        longer["tokens"] = longer["tokens"].at[:, -1].set(7)
        got, _ = net.apply(variables, {"views": {net.view: longer}}, train=False)
        np.testing.assert_allclose(got.logits, want.logits, rtol=1e-5, atol=1e-6)
    more = {k: jnp.concatenate([v, jnp.zeros_like(v[:2])]) for k, v in arrays.items()}
    got, _ = net.apply(variables, {"views": {net.view: more}}, train=False)  # and two empty rows
    np.testing.assert_allclose(got.logits[:B], want.logits, rtol=1e-5, atol=1e-6)
    assert np.isfinite(got.logits).all()


def test_remat_changes_nothing(case):
    net, variables, batch = case
    name = type(net.architecture).__module__.rsplit(".", 1)[1]
    remat = tiny(name, remat=True)

    def loss(params, net):
        outputs, stats = net.apply(
            {"params": params, "stats": variables["stats"]},
            batch,
            train=True,
            key=jax.random.key(1),
            save=".*/out",
            edits={"features": Mix(jnp.arange(B)[::-1], jnp.full(B, 0.7))},
        )
        return jnp.sum(outputs.logits**2), (outputs, stats)

    grad = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (_, (want, want_stats)), want_grads = grad(variables["params"], net)
    (_, (got, got_stats)), got_grads = grad(variables["params"], remat)
    assert list(got.taps) == list(want.taps)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, (got, got_stats, got_grads), (want, want_stats, want_grads))
    jaxpr = str(jax.make_jaxpr(grad, static_argnums=1)(variables["params"], remat))
    assert "checkpoint" in jaxpr or "remat" in jaxpr


class _Counts(nnx.Module):
    def __init__(self, rngs):
        self.head = nnx.Linear(2, 2, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)  # hides a key and a counter

    def __call__(self, inputs, tape):
        x = self.head(inputs["pixels"])
        return Outputs(logits=x, features=x)


class _Hidden(Architecture):
    view, presets = "image", {}

    def fit(self, facts):
        return self

    def module(self, num_classes, rngs):
        return _Counts(rngs)


DEEP = {  # by family: rates of stochastic depth in the order of the pass, of 0.8 at the last block
    "bert": [0.4, 0.4, 0.8, 0.8],
    "vit": [0.4, 0.4, 0.8, 0.8],
    "resnet": [0.4, 0.8],
    "t5": [0.4, 0.4, 0.8, 0.8, 0.8, 0.8, 0.8],  # of each stack by itself; the decoder has one block
}


@pytest.mark.parametrize("family", DEEP)
def test_stochastic_depth_is_linear_by_depth_and_of_training_alone(family, monkeypatch):
    still = {"dropout": 0.0, "attention_dropout": 0.0} if family != "resnet" else {}
    usual, batch, key = tiny(family, **still), make_batch(), jax.random.key(2)
    variables = jax.jit(usual.init)(jax.random.key(0))
    nets = [usual, *(tiny(family, **still, drop_path=0.8, remat=r) for r in (False, True))]

    def logits(net, train):
        apply = functools.partial(net.apply, train=train, key=key)
        return jax.jit(apply)(variables, batch)[0].logits

    np.testing.assert_array_equal(logits(nets[0], False), logits(nets[1], False))
    assert np.abs(logits(nets[0], True) - logits(nets[1], True)).max() > 1e-6
    np.testing.assert_allclose(logits(nets[1], True), logits(nets[2], True), rtol=1e-5, atol=1e-6)

    rates, original = [], Tape.drop_path
    monkeypatch.setattr(Tape, "drop_path", lambda s, x, r: (rates.append(r), original(s, x, r))[1])
    jax.eval_shape(lambda: nets[1].apply(variables, batch, train=True, key=key))
    np.testing.assert_allclose([r for r in rates if r], DEEP[family])
    draws = []
    monkeypatch.setattr(Tape, "_draw", lambda *_: draws.append(1))
    jax.eval_shape(lambda: usual.apply(variables, batch, train=True, key=key))
    assert not draws


def test_a_rate_is_a_share():
    with pytest.raises(ValueError, match=r"drop_path = 1\.5 of model 'vit'.*from 0 to 1"):
        tiny("vit", drop_path=1.5)


def test_hidden_state_in_a_module_fails():
    with pytest.raises(ValueError, match=r"[Nn]on-exhaustive"):
        Net(_Hidden(), 2, "image").init(jax.random.key(0))


def test_a_net_is_asked_for_by_name():
    with pytest.raises(UnknownName, match=r"models plugin 'resnett'.*'resnet'"):
        make_net({"name": "resnett"}, C, FACTS)
    with pytest.raises(UnknownName, match=r"preset of model 'bert'.*large"):
        make_net({"name": "bert", "preset": "huge"}, C, FACTS)
    with pytest.raises(UnknownName, match=r"depht.*depth"):
        make_net({"name": "bert", "depht": 3}, C, FACTS)
    with pytest.raises(UnknownName, match="view for model 'bert'"):
        make_net({"name": "bert", "preset": "tiny"}, C, {"image": FACTS["image"]})
    assert (
        make_net({"name": "bert", "preset": "tiny", "depth": 3}, C, FACTS).architecture.depth == 3
    )
