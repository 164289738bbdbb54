"""Methods that look at the student more than once, or into it, where the answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairkd_jax import registry
from fairkd_jax.debias import altered
from fairkd_jax.debias.fairflow import contrastive, undecided
from fairkd_jax.models.net import make_net
from fairkd_jax.testing import tiny_step

KEY = jax.random.key(5)
TOKENS = [
    [1, 10, 11, 2, 20, 2, 0, 0],
    [1, 12, 2, 21, 22, 23, 24, 2],
    [1, 13, 14, 15, 16, 17, 2, 2],
]
SEGMENTS = [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 1]]
PAIRS = {
    "tokens": jnp.array(TOKENS),
    "segments": jnp.array(SEGMENTS),
    "mask": (jnp.array(TOKENS) > 0).astype(jnp.int32),
}


def run(name, batch=None, nets=None, **options):
    """((loss, (memory, metrics)), gradients) of one step from the usual start."""
    method = registry.build("debias", {"name": name, **options})
    params, now = tiny_step.start(method)
    params["nets"] |= nets or {}
    batch = tiny_step.make_batch() if batch is None else batch
    return tiny_step.run(method, params, now, tiny_step.shown_to(method, batch), KEY)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("kernel_whitening", {"balance": 1e12}),
        ("kernel_whitening", {"inner_steps": 0}),
        ("hypothesis_adversary", {"loss_weight": 0.0}),
        ("hypothesis_adversary", {"strength": 0.0}),
        ("random_premise", {"rate": 0.0}),
        ("fairflow", {"weight": 0.0, "contrast": 0.0}),
    ],
)
def test_without_its_force_the_student_learns_by_the_mean(name, options):
    (_, ours), (_, erm) = run(name, **options), run("erm")
    for a, b in zip(*(jax.tree.leaves(g["nets"]["student"]) for g in (ours, erm))):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_kernel_whitening_lowers_the_correlation_and_saves_ten_steps_evenly():
    method = registry.build("debias", {"name": "kernel_whitening"})
    params, now = tiny_step.start(method)
    batch = tiny_step.make_batch()
    _, before = tiny_step.run(method.replace(inner_steps=0), params, now, batch, KEY)[0][1]
    memory, after = tiny_step.run(method, params, now, batch, KEY)[0][1]
    assert after["decorrelation"] < before["decorrelation"]
    features = np.asarray(
        tiny_step.outputs(method, params["nets"], batch, {}, now, KEY)["student"].features
    )
    np.testing.assert_allclose(memory["features"][:16], features, rtol=1e-6)
    assert not np.any(memory["features"][16:])  # the batch has 16 rows
    third = tiny_step.after(now, jax.tree.map(jnp.zeros_like, memory)).replace(step=jnp.int32(2))
    memory, _ = tiny_step.run(method, params, third, batch, KEY)[0][1]
    np.testing.assert_allclose(memory["features"][:16], features / 3, rtol=1e-5)


def test_read_mixes_attention_in_training_and_stops_at_the_bias_net():
    student = tiny_step.start(registry.build("debias", {"name": "erm"}))[0]["nets"]["student"]
    twins = {"student": student, "bias": student}
    alike, apart = (run("read", nets=twins, share=share) for share in (1.0, 0.0))
    np.testing.assert_allclose(alike[0][0], apart[0][0], rtol=1e-6)  # the same attention
    np.testing.assert_allclose(
        alike[1]["nets"]["bias"]["query"], apart[1]["nets"]["bias"]["query"], rtol=1e-6
    )
    assert not np.any(alike[1]["nets"]["student"]["query"])  # its attention is the bias net's
    assert np.any(apart[1]["nets"]["student"]["query"])


def test_read_refuses_what_has_no_attention():
    method = registry.build("debias", {"name": "read", "layers": 2})
    with pytest.raises(ValueError, match=r"layers = 2, but the student has 1 such"):
        method.check(tiny_step.make_spec(method))


def test_the_hypothesis_alone_by_hand():
    second = altered.without_premise(PAIRS, "second")
    np.testing.assert_array_equal(second["tokens"][0], [1, 0, 0, 0, 20, 2, 0, 0])
    np.testing.assert_array_equal(second["mask"][0], [0, 0, 0, 0, 1, 1, 0, 0])
    first = altered.without_premise(PAIRS, "first")
    np.testing.assert_array_equal(first["tokens"][0], [1, 10, 11, 2, 0, 0, 0, 0])
    np.testing.assert_array_equal(first["mask"][0], [1, 1, 1, 1, 0, 0, 0, 0])


@pytest.mark.parametrize(("family", "view"), [("bert", "wordpiece"), ("t5", "unigram")])
def test_the_hypothesis_alone_tells_nothing_of_the_premise(family, view):
    sizes = {"depth": 1, "width": 8, "heads": 2, "mlp_width": 8}
    sizes |= {"head_width": 4} if family == "t5" else {}
    facts = {view: {"vocab_size": 50, "length": 8, "identity": ""}}
    net = make_net({"name": family, **sizes}, 2, facts)

    @jax.jit
    def features(inputs):
        alone = altered.without_premise(inputs, "second")
        return net.apply(net.init(KEY), {"views": {view: alone}}, train=False)[0].features

    here, tokens = features(PAIRS), np.array(TOKENS)
    premise = (np.array(SEGMENTS) == 0) & (tokens > 2)
    other = features(PAIRS | {"tokens": jnp.asarray(np.where(premise, 40, tokens))})
    np.testing.assert_array_equal(here, other)
    changed = features(PAIRS | {"tokens": jnp.asarray(np.where(tokens == 20, 40, tokens))})
    assert np.any(here[0] != changed[0])


def test_other_premises_by_hand():
    partner = jnp.array([1, 2, 0])
    other = jax.jit(altered.other_premise, static_argnums=2)
    found = other(PAIRS, partner, "second")
    expected = [
        [1, 12, 2, 20, 2, 0, 0, 0],
        [1, 13, 2, 21, 22, 23, 24, 2],  # the premise is cut, its [SEP] stays
        [1, 10, 11, 2, 2, 0, 0, 0],
    ]
    np.testing.assert_array_equal(found["tokens"], expected)
    np.testing.assert_array_equal(found["mask"], np.array(expected) > 0)
    np.testing.assert_array_equal(found["segments"][1], [0, 0, 0, 1, 1, 1, 1, 1])
    found = other(PAIRS, partner, "first")
    expected = [
        [1, 10, 11, 2, 21, 22, 23, 2],
        [1, 12, 2, 2, 0, 0, 0, 0],
        [1, 13, 14, 15, 16, 17, 2, 2],
    ]
    np.testing.assert_array_equal(found["tokens"], expected)


def test_premise_methods_refuse_texts_without_a_premise():
    for name in ("hypothesis_adversary", "random_premise"):
        method = registry.build("debias", {"name": name})
        spec = tiny_step.make_spec(method)
        with pytest.raises(ValueError, match=rf"{name} .* reads \['pixels'\]"):
            method.check(spec.replace(inputs={"pixels": jnp.zeros((2, 4, 4, 3))}))
        with pytest.raises(ValueError, match="single ones"):
            method.check(spec.replace(inputs={k: 0 * v for k, v in spec.inputs.items()}))
        with pytest.raises(registry.UnknownName, match=r"'third'.*first, second"):
            method.replace(hypothesis="third").check(spec)


def test_shuffling_keeps_what_a_text_holds_and_its_ends():
    shuffled = jax.jit(lambda inputs, real: altered.shuffled(inputs, real, KEY, 2))
    found = shuffled(PAIRS, jnp.ones(3))
    tokens = np.array(TOKENS)
    for text in (0, 1):
        held = np.where((np.array(SEGMENTS) == text) & (tokens > 0), [tokens, found["tokens"]], 0)
        np.testing.assert_array_equal(*np.sort(held))
    ends = np.isin(tokens, [0, 1, 2])
    np.testing.assert_array_equal(np.asarray(found["tokens"])[ends], tokens[ends])
    assert np.any(found["tokens"] != tokens)
    image = jnp.arange(2 * 4 * 4 * 3.0).reshape(2, 4, 4, 3)
    moved = shuffled({"pixels": image}, jnp.ones(2))["pixels"]
    np.testing.assert_array_equal(np.sort(moved.reshape(2, -1)), image.reshape(2, -1))
    first = np.asarray(moved)[0, :2, :2].reshape(-1)
    assert any(
        np.array_equal(first, image[0, y : y + 2, x : x + 2].reshape(-1))
        for y in (0, 2)
        for x in (0, 2)
    )


def test_dropping_masks_tokens_but_no_ends():
    found = altered.dropped(PAIRS, jnp.ones(3), KEY, 2, 1.0)
    np.testing.assert_array_equal(found["tokens"][1], [1, 0, 2, 0, 0, 0, 0, 2])
    np.testing.assert_array_equal(found["mask"], found["tokens"] > 0)


def test_fairflow_losses_by_hand():
    np.testing.assert_allclose(undecided(jnp.array([[2.0, 2.0, 2.0]])), [0.0], atol=1e-6)
    clean, biased = jnp.eye(3, 4), jnp.eye(4)[None, 3:].repeat(3, axis=1)
    same = jnp.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    of = jax.jit(lambda clean: contrastive(clean, biased, same, jnp.ones(3), 0.1))
    found = of(clean)
    np.testing.assert_allclose(found, [np.log(4), np.log(4), 0], rtol=1e-6)  # one of four alike
    close = of(clean.at[1].set(clean[0]))[:2]
    np.testing.assert_allclose(close, np.full(2, np.log1p(3 * np.exp(-10))), atol=1e-6)


def test_fairflow_refuses_what_it_cannot_alter():
    method = registry.build("debias", {"name": "fairflow"})
    spec = tiny_step.make_spec(method)
    with pytest.raises(registry.UnknownName, match=r"'rotate'.*drop, shuffle, zero"):
        method.replace(views=("rotate",)).check(spec)
    with pytest.raises(ValueError, match=r"grid = 3 does not divide images of 4 x 4"):
        method.replace(grid=3).check(spec.replace(inputs={"pixels": jnp.zeros((2, 4, 4, 3))}))
