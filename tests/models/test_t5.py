"""T5: names of intermediates, positions, padding, the three ways to answer, published forms."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fairkd_jax.models import layers
from fairkd_jax.models.net import make_net
from fairkd_jax.models.positions import prefix_tree, relative_buckets
from fairkd_jax.models.t5 import T5
from fairkd_jax.models.tape import Edit
from fairkd_jax.registry import UnknownName

LABELS = ((5, 1), (6, 7, 8, 1), (6, 7, 9, 1), (6,))  # the last begins two others
FACTS = {"unigram": {"vocab_size": 20, "length": 8, "identity": "pieces", "label_tokens": LABELS}}
SIZES = {"depth": 1, "width": 16, "heads": 2, "head_width": 6, "mlp_width": 24, "buckets": 8}
READOUTS = ("first_step", "sequence", "verbalizer")


def t5(facts=FACTS, classes=len(LABELS), **options):
    return make_net({"name": "t5", "preset": "tiny"} | options, classes, facts)


def small(**options):
    """(net, variables) of few and narrow layers."""
    net = t5(**SIZES | {"max_distance": 12} | options)
    return net, jax.jit(net.init)(jax.random.key(0))


def make_batch(lengths, total):
    """Rows of random tokens, each ended by </s>."""
    rng = np.random.default_rng(1)
    tokens = np.zeros((len(lengths), total), np.int32)
    for row, n in enumerate(lengths):
        tokens[row, :n] = [*rng.integers(2, 20, 60)[: n - 1], 1][:n]
    mask = (tokens > 0).astype(np.int32)
    views = {"unigram": {"tokens": tokens, "mask": mask, "segments": np.zeros_like(tokens)}}
    return jax.tree.map(jnp.asarray, {"views": views})


def apply(net, variables, batch, save="", edits=None):
    run = jax.jit(lambda v, b, e: net.apply(v, b, train=False, save=save, edits=e)[0])
    return run(variables, batch, edits)


@pytest.mark.parametrize("readout", READOUTS)
def test_names_of_intermediates(readout):
    net = t5(**SIZES | {"depth": 2}, readout=readout)
    taps = {}

    def run(variables, batch):
        taps.update(net.apply(variables, batch, train=False, save=".*")[0].taps)

    jax.eval_shape(run, net.variable_shapes(), make_batch((7, 4), 7))

    parts = ("query", "key", "value", "scores", "probs")
    attention = [*(f"attn_{part}" for part in parts), "head_out", "attn_out"]
    cross = (*parts, "head_out", "out")
    inside = [*attention, "mlp_out", "out"]
    both = [*attention, *(f"cross_{name}" for name in cross), "mlp_out", "out"]
    encoder = [f"enc/block0{i}/{name}" for i in range(2) for name in inside]
    decoder = [f"dec/block00/{name}" for name in both]
    words = ["lm_logits"] if readout == "verbalizer" else []
    names = ["input", "enc/embed", *encoder, "enc/out", "dec/embed", *decoder, "dec/out"]
    assert list(taps) == [*names, "features", *words]
    steps = {"first_step": 1, "sequence": 7, "verbalizer": 6}[readout]  # 6 different prefixes
    assert taps["enc/block01/attn_probs"].shape == (2, 2, 7, 7)
    assert taps["dec/block00/attn_probs"].shape == (2, 2, steps, steps)
    assert taps["dec/block00/cross_probs"].shape == (2, 2, steps, 7)
    assert taps["dec/block00/cross_head_out"].shape == (2, steps, 2, 6)
    assert taps["dec/out"].shape == (2, steps, 16) and taps["features"].shape == (2, 16)
    if words:
        assert taps["lm_logits"].shape == (2, steps, 20)


@pytest.mark.parametrize("gated", [False, True])
def test_fused_attention_equals_explicit_attention(gated, monkeypatch):
    monkeypatch.setattr(layers, "_on_cpu", lambda: False)  # where it is never fused
    net, variables = small(readout="sequence", gated=gated)
    batch = make_batch((7, 4), 7)
    fused = apply(net, variables, batch, ".*/out")
    explicit = apply(net, variables, batch, ".*")
    np.testing.assert_allclose(fused.logits, explicit.logits, rtol=1e-5, atol=1e-6)
    for name, tap in fused.taps.items():
        np.testing.assert_allclose(tap, explicit.taps[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("readout", READOUTS)
def test_padding_tokens_and_rows_change_nothing(readout):
    """Also where texts are longer than the largest distance told apart."""
    net, variables = small(readout=readout)
    short = apply(net, variables, make_batch((40, 5), 40))
    long = apply(net, variables, make_batch((40, 5, 0), 47))
    np.testing.assert_allclose(short.logits, long.logits[:2], rtol=1e-5, atol=1e-5)
    assert np.isfinite(long.logits).all()


def test_padding_gets_no_gradient():
    net, variables = small(readout="sequence")

    def loss(params, batch):
        logits = net.apply({"params": params, "stats": {}}, batch, train=False)[0].logits
        return jnp.sum(logits[:2] ** 2)

    grad = jax.jit(jax.grad(loss))
    want, got = (
        grad(variables["params"], b) for b in (make_batch((40, 5), 40), make_batch((40, 5, 0), 47))
    )
    # sums over more positions, in another order
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), want, got)
    assert float(jnp.abs(got["enc"]["relative"]["embedding"]).max()) > 0


def direct_bucket(offset, buckets, max_distance, causal):
    """One offset, as the paper says it: no arrays, no minimum."""
    base = 0
    if causal:
        distance = max(-offset, 0)
    else:
        buckets //= 2
        base, distance = (buckets if offset > 0 else 0), abs(offset)
    if distance < buckets // 2:
        return base + distance
    if distance >= max_distance:
        return base + buckets - 1
    single = buckets // 2
    growth = math.log(distance / single) / math.log(max_distance / single)
    return base + single + math.floor(growth * (buckets - single))


def test_positions_beyond_the_largest_distance():
    """Attention of 40 tokens from its parts, where 12 is the largest distance told apart."""
    net, variables = small(readout="sequence")
    taps = apply(net, variables, make_batch((40,), 40), ".*").taps
    for stack, causal in (("enc", False), ("dec", True)):
        params = variables["params"][stack]
        table, block = np.asarray(params["relative"]["embedding"]), params["block00"]
        x = np.asarray(taps[f"{stack}/embed"][0], np.float64)
        x /= np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)  # the scale is 1 at the start
        query, key = (
            (x @ np.asarray(block["attn"][k]["kernel"])).reshape(40, 2, 6) for k in ("query", "key")
        )
        scores = np.einsum("tnh,snh->nts", query, key)
        for t in range(40):
            for s in range(40):
                scores[:, t, s] += table[direct_bucket(s - t, 8, 12, causal)]
                if causal and s > t:
                    scores[:, t, s] = -np.inf
        probs = np.exp(scores - scores.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        np.testing.assert_allclose(
            taps[f"{stack}/block00/attn_probs"][0], probs, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("causal", [False, True])
def test_buckets(causal):
    offset = np.arange(-600, 601)
    for sizes in ((32, 128), (8, 12), (12, 100)):
        want = [direct_bucket(int(o), *sizes, causal) for o in offset]
        np.testing.assert_array_equal(relative_buckets(offset, *sizes, causal=causal), want)


def test_a_prefix_tree_shares_beginnings():
    text, predicted = prefix_tree(LABELS, start=0)
    assert text.tokens.tolist() == [[0, 5, 6, 7, 8, 9]]  # but the last of each
    assert text.places.tolist() == [0, 1, 1, 2, 3, 3]
    assert predicted[0].tolist() == [0, 1, 0, 2, 3, 4, 0, 2, 3, 5, 0]
    assert predicted[1].tolist() == [t for label in LABELS for t in label]
    assert predicted[2].tolist() == [c for c, label in enumerate(LABELS) for _ in label]
    assert text.visible[5].tolist() == [True, False, True, True, False, True]


@pytest.mark.parametrize("form", [{}, {"gated": True, "tied": False, "scale_outputs": False}])
def test_the_verbalizer_is_a_loop_over_classes(form):
    """A net with one class reads that class's words alone, one after the other."""
    net, variables = small(readout="verbalizer", decoder_depth=2, **form)
    batch = make_batch((7, 4), 7)

    def answer(labels):
        architecture = dataclasses.replace(net.architecture, label_tokens=labels)
        some = dataclasses.replace(net, architecture=architecture, num_classes=len(labels))
        return apply(some, variables, batch, "lm_logits")

    got = answer(LABELS)
    assert float(got.logits.max()) < 0 and got.taps["lm_logits"].shape == (2, 6, 20)
    for c, label in enumerate(LABELS):
        alone = answer((label,)).taps["lm_logits"]
        assert alone.shape == (2, len(label), 20)
        log_probs = jax.nn.log_softmax(alone)
        want = sum(log_probs[:, i, token] for i, token in enumerate(label))
        np.testing.assert_allclose(got.logits[:, c], want, rtol=1e-5)


def test_an_edit_of_what_the_words_head_reads_reaches_the_logits():
    net, variables = small(readout="verbalizer")
    batch = make_batch((7, 4), 7)
    clean = apply(net, variables, batch, "lm_logits")
    edited = apply(net, variables, batch, "lm_logits", {"features": Edit(jnp.zeros(16))})
    np.testing.assert_array_equal(edited.taps["lm_logits"][:, 0], 0.0)
    np.testing.assert_array_equal(edited.taps["lm_logits"][:, 1:], clean.taps["lm_logits"][:, 1:])
    words = jax.nn.log_softmax(clean.taps["lm_logits"])
    first = np.array([label[0] for label in LABELS])  # predicted at the first step, now at random
    want = clean.logits - words[:, 0, first] - np.log(20)
    np.testing.assert_allclose(edited.logits, want, rtol=1e-5, atol=1e-5)


def test_a_sequence_is_read_at_its_last_end():
    net, variables = small(readout="sequence")
    rows = [[4, 5, 1, 6, 1, 7], [4, 5, 1, 6, 1, 8], [4, 5, 9, 6, 4, 7]]
    tokens, mask = jnp.array(rows, jnp.int32), jnp.ones((3, 6), jnp.int32)
    views = {"unigram": {"tokens": tokens, "mask": mask.at[1, 5].set(0), "segments": mask}}
    outputs = apply(net, variables, {"views": views}, "dec/out")
    states = outputs.taps["dec/out"]
    want = jnp.stack([states[0, 4], states[1, 4], states[2, 0]])  # without an end: the first
    np.testing.assert_array_equal(outputs.features, want)


@pytest.mark.parametrize(
    "preset, parameters",  # of the published nets, heads of classes aside
    [
        ("small", 60_506_624),
        ("base", 222_903_552),
        ("large", 737_668_096),
        ("small_v11", 76_961_152),
        ("base_v11", 247_577_856),
        ("large_v11", 783_150_080),
    ],
)
def test_presets_have_the_published_sizes(preset, parameters):
    facts = {"unigram": {"vocab_size": 32128, "length": 8, "label_tokens": ((3,), (4,))}}
    net = t5(facts, 2, preset=preset, readout="verbalizer")
    assert net.num_parameters() == parameters


def test_parameters_start_as_published():
    net, variables = small(width=64, head_width=16, mlp_width=128, readout="verbalizer", tied=False)
    block = variables["params"]["enc"]["block00"]
    for array, std in (
        (variables["params"]["embed"]["embedding"], 1),
        (variables["params"]["lm_head"]["embedding"], 64**-0.5),
        (block["attn"]["query"]["kernel"], (64 * 16) ** -0.5),
        (block["attn"]["key"]["kernel"], 64**-0.5),
        (block["attn"]["out"]["kernel"], 32**-0.5),
        (block["mlp"]["inner"]["kernel"], 64**-0.5),
        (block["mlp"]["out"]["kernel"], 128**-0.5),
    ):
        # a standard deviation of n numbers is known to 1 / sqrt(2 n)
        assert abs(float(array.std()) / std - 1) < 4 / math.sqrt(2 * array.size)
    scores = apply(net, variables, make_batch((7, 4), 7), "lm_logits").taps["lm_logits"]
    assert 0.05 < float(scores.std()) < 2


def test_what_does_not_go_with_the_data():
    assert t5().architecture.vocab_size == 20
    assert t5().architecture.label_tokens == ()  # read by the verbalizer alone
    assert t5(readout="verbalizer").architecture.label_tokens == LABELS
    own = t5(readout="verbalizer", label_tokens=[[3], [4], [5], [6]], vocab_size=30)
    assert own.architecture.label_tokens == ((3,), (4,), (5,), (6,))
    assert own.architecture.vocab_size == 30
    assert t5(vocab_size=10).architecture.rows()["tokens"] == 10  # data are looked at for more
    with pytest.raises(ValueError, match="vocab_size = None: fit"):
        T5().module(2, nnx.Rngs(0))
    with pytest.raises(UnknownName, match=r"readout of t5: 'sequense'.*'sequence'.*verbalizer"):
        t5(readout="sequense")
    for labels in (LABELS[:3], (*LABELS[:3], LABELS[0]), (*LABELS[:3], ()), (*LABELS[:3], (20,))):
        net = t5(readout="verbalizer", label_tokens=labels)
        with pytest.raises(ValueError, match=r"label_tokens = .*expected 4 labels.*size = 20"):
            net.variable_shapes()
    nameless = {"unigram": {"vocab_size": 20, "length": 8}}
    with pytest.raises(ValueError, match=r"label_tokens = \(\): expected 4 labels"):
        t5(nameless, readout="verbalizer").variable_shapes()


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("preset", ["tiny", "base", "large_v11"])
def test_a_config_is_read_back(preset, readout):
    net = t5(preset=preset, readout=readout, dropout=0.2)
    read = T5.from_config(net.architecture.to_config())
    depth = net.architecture.decoder_depth or net.architecture.depth
    labels = {"label_tokens": ()}  # the data's
    assert read == dataclasses.replace(net.architecture, decoder_depth=depth, **labels)


def test_what_published_configs_say():
    config = t5(preset="small").architecture.to_config()
    assert T5.from_config(config | {"architectures": None}).readout == "first_step"
    old = {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}  # version 1.1
    silent = ("scale_decoder_outputs", "relative_attention_max_distance")
    old = {k: v for k, v in (config | old).items() if k not in silent}
    read = T5.from_config(old)
    assert (read.tied, read.scale_outputs, read.gated) == (False, False, True)
    assert read.max_distance == 128
    new = old | {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    assert T5.from_config(new).tied
    read = T5.from_config(new, ["shared.weight", "lm_head.weight"])  # the weights know better
    assert (read.tied, read.scale_outputs) == (False, False)
    assert not T5.from_config(old, ["shared.weight"]).tied  # a body without its head of words
    assert T5.from_config(new, ["shared.weight"]).tied
    for key, wrong, message in (
        ("feed_forward_proj", "gated-silu", r"feed_forward_proj.*'gated-silu'.*gated-gelu, relu"),
        ("dense_act_fn", "gelu", r"'dense_act_fn': 'gelu'.*'relu'"),
        ("is_gated_act", True, "'is_gated_act': True"),
        ("decoder_start_token_id", 3, r"'decoder_start_token_id': 3"),
        ("eos_token_id", 2, r"'eos_token_id': 2"),
    ):
        with pytest.raises(ValueError, match=message):
            T5.from_config(config | {key: wrong})
