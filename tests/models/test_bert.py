"""BERT: sizes, names of intermediates, padding, what the data may ask of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairkd_jax.models.net import make_net

FACTS = {"wordpiece": {"vocab_size": 20, "length": 8, "identity": "words"}}


def bert(facts=FACTS, **options):
    return make_net({"name": "bert", "preset": "tiny"} | options, 3, facts)


def make_batch(lengths, total):
    rng = np.random.default_rng(1)
    tokens = np.zeros((len(lengths), total), np.int32)
    for row, n in enumerate(lengths):
        tokens[row, :n] = rng.integers(1, 20, 9)[:n]
    mask = (tokens > 0).astype(np.int32)
    views = {"wordpiece": {"tokens": tokens, "mask": mask, "segments": np.zeros_like(tokens)}}
    return jax.tree.map(jnp.asarray, {"views": views})


@pytest.fixture(scope="module")
def small():
    net = bert(width=8, depth=2)
    return net, jax.jit(net.init)(jax.random.key(0))


def test_names_of_intermediates(small):
    net, variables = small
    taps = net.apply(variables, make_batch((8, 3), 8), train=False, save=".*")[0].taps
    attention = [f"attn_{part}" for part in ("query", "key", "value", "scores", "probs")]
    inside = (*attention, "head_out", "attn_out", "mlp_out", "out")
    blocks = [f"block{i:02}/{name}" for i in range(2) for name in inside]
    assert list(taps) == ["input", "embed", *blocks, "features"]
    assert taps["block00/attn_probs"].shape == (2, 2, 8, 8)
    assert taps["block00/head_out"].shape == (2, 8, 2, 4)
    for name in ("input", "embed", "block01/attn_out", "block01/mlp_out", "block01/out"):
        assert taps[name].shape == (2, 8, 8)


def test_asking_for_probabilities_changes_nothing(small):
    net, variables = small
    batch = make_batch((8, 3), 8)
    fused, _ = net.apply(variables, batch, train=False, save="block01/out")
    explicit, _ = net.apply(variables, batch, train=False, save="block01/(out|attn_probs)")
    np.testing.assert_allclose(fused.logits, explicit.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        fused.taps["block01/out"], explicit.taps["block01/out"], rtol=1e-5, atol=1e-5
    )


def test_padding_tokens_and_rows_change_nothing(small):
    net, variables = small
    short, _ = net.apply(variables, make_batch((5, 3), 5), train=False)
    long, _ = net.apply(variables, make_batch((5, 3), 8), train=False)
    np.testing.assert_allclose(short.logits, long.logits, rtol=1e-5, atol=1e-6)
    rows, _ = net.apply(variables, make_batch((5, 3, 0), 8), train=False)  # one without any token
    np.testing.assert_allclose(rows.logits[:2], long.logits, rtol=1e-5, atol=1e-6)
    assert np.isfinite(rows.logits).all()


def test_padding_gets_no_gradient(small):
    net, variables = small
    batch = make_batch((5, 3), 8)

    def loss(params):
        logits = net.apply({"params": params, "stats": {}}, batch, train=False)[0].logits
        return jnp.sum(logits**2)

    words = jax.grad(loss)(variables["params"])["embed"]["word"]["embedding"]
    np.testing.assert_array_equal(words[0], 0.0)  # the padding token's row
    assert float(jnp.abs(words[1:]).max()) > 0


@pytest.mark.parametrize(
    "preset, parameters",  # without the head of 3 classes, a vocabulary of 30522
    [
        ("tiny", 4385920),
        ("mini", 11170560),
        ("small", 28763648),
        ("medium", 41373184),
        ("base", 109482240),
        ("large", 335141888),
        ("minilm_l6", 22713216),
    ],
)
def test_presets_have_the_published_sizes(preset, parameters):
    facts = {"wordpiece": {"vocab_size": 30522, "length": 128, "identity": "words"}}
    net = bert(facts, preset=preset)
    assert net.num_parameters() == parameters + 3 * net.architecture.width + 3


def test_sizes_that_do_not_go_with_the_data():
    assert bert().architecture.vocab_size == 20
    assert bert(vocab_size=50).architecture.vocab_size == 50
    assert bert(vocab_size=10).architecture.rows()["tokens"] == 10  # data are looked at for more
    with pytest.raises(ValueError, match="positions = 4, but the data have 8 tokens"):
        bert(positions=4)
    with pytest.raises(ValueError, match="width = 10 is no multiple of heads = 4"):
        bert(width=10, heads=4)
    net = bert(width=8, positions=8)
    with pytest.raises(ValueError, match="9 tokens, but bert has positions = 8"):
        net.shapes(make_batch((9,), 9))


def test_training_needs_a_key(small):
    net, variables = small
    with pytest.raises(ValueError, match="key="):
        net.apply(variables, make_batch((5,), 5), train=True)
    plain = bert(width=8, dropout=0.0, attention_dropout=0.0)
    variables = jax.jit(plain.init)(jax.random.key(0))
    batch = make_batch((5, 3), 8)
    trained, _ = plain.apply(variables, batch, train=True)
    evaluated, _ = plain.apply(variables, batch, train=False)
    np.testing.assert_array_equal(trained.logits, evaluated.logits)
