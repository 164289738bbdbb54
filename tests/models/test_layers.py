"""Attention both ways, convolution both ways, PyTorch's batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fairkd_jax.models import layers
from fairkd_jax.models.layers import BatchNorm, Dense, attend, convolve, max_pool
from fairkd_jax.models.tape import Edit, Tape
from fairkd_jax.registry import UnknownName

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("biased", [False, True])
def test_fused_attention_equals_explicit_attention(biased, monkeypatch):
    keys = jax.random.split(jax.random.key(0), 5)
    query, key, value = (jax.random.normal(k, (3, 5, 2, 4)) for k in keys[:3])
    bias = jax.random.normal(keys[4], (1, 2, 5, 5)) if biased else None
    scale = 1.0 if biased else None
    mask = jnp.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], bool)[:, None, None]
    target = jax.random.normal(keys[3], query.shape)

    def run(query, key, value, tape):
        out = attend(query, key, value, mask, tape, "attn", dropout=0.5, bias=bias, scale=scale)
        return jnp.vdot(out, target), out

    grad = jax.value_and_grad(run, (0, 1, 2), has_aux=True)
    (_, explicit), explicit_grads = grad(query, key, value, Tape("attn_probs"))
    monkeypatch.setattr(layers, "_on_cpu", lambda: False)
    (_, fused), fused_grads = grad(query, key, value, Tape())
    np.testing.assert_allclose(fused, explicit, rtol=1e-5, atol=1e-6)
    for a, b in zip(fused_grads, explicit_grads):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    run(query, key, value, tape := Tape("attn_probs"))
    probs = tape.finish()["attn_probs"]
    assert probs.shape == (3, 2, 5, 5) and probs.dtype == jnp.float32
    np.testing.assert_allclose(probs.sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(probs[1, :, :, 3:], 0.0)


def test_probabilities_are_dropped_out_in_training_only():
    x = jnp.ones((1, 4, 1, 2))
    mask = jnp.ones((1, 1, 1, 4), bool)
    evaluated = attend(x, x, x, mask, Tape(), "attn", dropout=0.5)
    np.testing.assert_allclose(evaluated, 1.0, rtol=1e-6)
    tape = Tape(train=True, key=jax.random.key(0))
    trained = attend(x, x, x, mask, tape, "attn", dropout=0.5)
    # each of 4 keys weighs 0.25 and is kept, doubled, or dropped: multiples of a half
    np.testing.assert_allclose(trained * 2, np.round(trained * 2), atol=1e-6)
    assert float(jnp.abs(trained - 1.0).max()) > 0
    with pytest.raises(ValueError, match="key="):
        attend(x, x, x, mask, Tape(train=True), "attn", dropout=0.5)


@pytest.mark.parametrize("rate, shape", [(0.1, (64, 33, 31)), (0.5, (40001,)), (1.0, (5, 3))])
def test_dropout_keeps_the_mean_and_drops_at_its_rate(rate, shape):
    tape = Tape(train=True, key=jax.random.key(1))
    first, second = (np.asarray(tape.drop(jnp.ones(shape), rate)) for _ in range(2))
    error = 4 * (rate * (1 - rate) / first.size) ** 0.5  # standard deviations of a share
    assert abs((first == 0).mean() - rate) <= error
    assert abs((second == 0).mean() - rate) <= error
    both = ((first == 0) & (second == 0)).mean()  # draws of two calls are independent
    assert abs(both - rate**2) <= error
    neighbours = first.reshape(-1)[:-1][first.reshape(-1)[1:] == 0] == 0  # and of one word
    assert abs(neighbours.mean() - rate) <= 4 * (rate * (1 - rate) / neighbours.size) ** 0.5
    if rate < 1:
        np.testing.assert_allclose(first[first > 0], 1 / (1 - rate), rtol=2e-5)
    again = Tape(train=True, key=jax.random.key(1)).drop(jnp.ones(shape), rate)
    np.testing.assert_array_equal(first, again)
    x = jnp.ones(shape)
    assert Tape(key=jax.random.key(1)).drop(x, rate) is x


@pytest.mark.parametrize("rate", [0.25, 1.0])
def test_stochastic_depth_drops_examples_whole_and_keeps_the_mean(rate):
    tape, x = Tape(train=True, key=jax.random.key(1)), jnp.ones((4000, 2, 3))
    first, second = (np.asarray(tape.drop(x, 0.0, rate)).reshape(4000, -1) for _ in range(2))
    assert (first == first[:, :1]).all()
    dropped = [y[:, 0] == 0 for y in (first, second)]
    error = 4 * (rate * (1 - rate) / 4000) ** 0.5
    assert all(abs(d.mean() - rate) <= error for d in dropped)
    assert abs((dropped[0] & dropped[1]).mean() - rate**2) <= error  # each call draws anew
    if rate < 1:
        np.testing.assert_allclose(first[~dropped[0]], 1 / (1 - rate), rtol=1e-6)
    assert Tape(key=jax.random.key(1)).drop_path(x, rate) is x
    assert np.isfinite(jax.grad(lambda x: jnp.sum(tape.drop_path(x, rate)))(x)).all()
    with pytest.raises(ValueError, match="key="):
        Tape(train=True).drop_path(x, rate)


def test_probabilities_may_be_edited():
    x = jax.random.normal(jax.random.key(0), (1, 3, 1, 2))
    mask = jnp.ones((1, 1, 1, 3), bool)
    tape = Tape(edits={"attn_probs": Edit(jnp.full((3, 3), 1 / 3))})
    out = attend(x, x, x, mask, tape, "attn")
    np.testing.assert_allclose(out, jnp.broadcast_to(x.mean(1, keepdims=True), x.shape), rtol=1e-5)


@pytest.mark.parametrize(
    "size, stride, length", [(1, 1, 5), (1, 2, 5), (3, 1, 2), (3, 2, 4), (7, 2, 6), (3, 1, 1)]
)
def test_patches_equal_convolution(size, stride, length):
    rng = np.random.default_rng(size)
    x = jnp.asarray(rng.normal(size=(2, length, length, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 3, 4)), jnp.float32)

    def reference(x, kernel):
        pad = ((size - 1) // 2,) * 2
        return jax.lax.conv_general_dilated(
            x, kernel, (stride,) * 2, (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    want, pull = jax.vjp(reference, x, kernel)
    got, mine = jax.vjp(lambda x, k: convolve(x, k, stride), x, kernel)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    for a, b in zip(mine(want), pull(want)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("length", [4, 7])
def test_pooling_equals_the_library_s(length):
    x = jax.random.normal(jax.random.key(length), (2, length, length, 3))

    def reference(x):
        return nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    want, pull = jax.vjp(reference, x)
    got, mine = jax.vjp(lambda x: max_pool(x, 3, 2), x)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(mine(want)[0], pull(want)[0], rtol=1e-6)


def test_small_maps_avoid_the_slow_convolution_on_cpu():
    def lowered(length):
        x, kernel = jnp.ones((2, length, length, 8)), jnp.ones((3, 3, 8, 8))
        return str(jax.make_jaxpr(lambda x, k: convolve(x, k, 1))(x, kernel))

    assert jax.default_backend() == "cpu"
    assert "conv_general_dilated" in lowered(3) and "conv_general_dilated" not in lowered(2)


def test_batch_norm_statistics():
    norm = BatchNorm(2, "float32")
    x = np.random.default_rng(0).normal(3.0, 2.0, (5, 2, 3, 2)).astype(np.float32)
    flat = x.reshape(-1, 2)
    y = np.asarray(norm(jnp.asarray(x), Tape(train=True))).reshape(-1, 2)
    want = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)
    before = np.asarray(norm.mean[...])
    y = norm(jnp.asarray(x), Tape())
    want = (x - before) / np.sqrt(np.asarray(norm.var[...]) + 1e-5)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(norm.mean[...], before)


def test_dense_merges_leading_axes():
    dense = Dense(3, 4, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 5, 3))
    want = jnp.einsum("btd,df->btf", x, dense.kernel[...]) + dense.bias[...]
    np.testing.assert_allclose(dense(x), want, rtol=1e-5, atol=1e-6)


def test_tape():
    tape = Tape(save="a/.*")
    x = jnp.ones(3)
    assert tape("a/b", x) is x and tape("c", x) is x
    assert tape.wants("a/d") and not tape.wants("c")
    assert list(tape.finish()) == ["a/b"]
    with pytest.raises(ValueError, match="passed the tape twice"):
        tape("c", x)
    tape = Tape(edits={"a/prob": Edit(0.0)})
    tape.wants("a/probs")  # offered, though it was not computed
    with pytest.raises(UnknownName, match="Did you mean 'a/probs'"):
        tape.finish()
