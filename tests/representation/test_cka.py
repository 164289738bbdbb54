"""Linear CKA: identities, invariances, masks, streams, and where it is undefined."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from fairkd_jax.representation import cka
from fairkd_jax.representation.cka import Moments, hsic, linear_cka

BOTH = pytest.mark.parametrize("debiased", [True, False])


def features(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two related layers of different width."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 9)) * np.geomspace(1, 20, 9)
    y = x @ random.normal(size=(9, 14)) + 30 * random.normal(size=(n, 14))
    return x.astype(np.float32), y.astype(np.float32)


def reference(x: np.ndarray, y: np.ndarray, debiased: bool) -> float:
    """Both estimators by their definitions, in float64; the unbiased one is Song's sum."""

    def value(k: np.ndarray, m: np.ndarray) -> float:
        n = len(k)
        if not debiased:
            h = np.eye(n) - 1 / n
            return np.sum((h @ k @ h) * (h @ m @ h))
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        return (
            np.sum(k * m)
            + k.sum() * m.sum() / ((n - 1) * (n - 2))
            - 2 / (n - 2) * np.sum(k.sum(0) * m.sum(0))
        )

    x, y = (a - a.mean(0, dtype=np.float64) for a in (x, y))
    k, m = x @ x.T, y @ y.T
    return value(k, m) / np.sqrt(value(k, k) * value(m, m))


def stream(x, y, splits: list[int], mask=None) -> Moments:
    """Moments over consecutive parts, accumulated in turn."""
    mask = np.ones(len(x)) if mask is None else mask
    parts = [*zip(*(np.split(a, np.cumsum(splits)[:-1]) for a in (x, y, mask)))]
    return functools.reduce(lambda m, part: m.update(*part), parts, Moments.start(*parts[0]))


@BOTH
def test_definition(debiased):
    x, y = features()
    want = reference(x, y, debiased)
    assert 0.1 < want < 0.9
    np.testing.assert_allclose(linear_cka(x, y, debiased=debiased), want, rtol=1e-5)
    np.testing.assert_allclose(
        stream(x, y, [25, 35]).cka(debiased=debiased), want, rtol=1e-4
    )  # the feature form subtracts, in float32


@BOTH
def test_a_layer_is_like_itself_rotated_scaled_and_moved(debiased):
    x, y = features()
    rotation = scipy.stats.ortho_group.rvs(9, random_state=0)
    moved = (0.01 * x @ rotation - 300).astype(np.float32)
    np.testing.assert_allclose(linear_cka(x, x, debiased=debiased), 1, rtol=1e-6)
    np.testing.assert_allclose(linear_cka(x, moved, debiased=debiased), 1, rtol=1e-5)
    want = linear_cka(x, y, debiased=debiased)
    np.testing.assert_allclose(linear_cka(moved, y, debiased=debiased), want, rtol=1e-4)
    np.testing.assert_allclose(linear_cka(y, x, debiased=debiased), want, rtol=1e-5)
    stretched = x * np.geomspace(1, 100, 9, dtype=np.float32)  # an invertible map is no rotation
    assert abs(linear_cka(x, stretched, debiased=debiased) - 1) > 0.01


@BOTH
def test_masked_rows_change_nothing_even_if_they_are_nan(debiased):
    x, y = features()
    want = linear_cka(x, y, debiased=debiased)
    mask = np.ones(70)
    mask[[0, 1, 30, 31, 32, 40, 50, 60, 68, 69]] = 0
    wide = [np.full((70, a.shape[1]), np.nan, np.float32) for a in (x, y)]
    for a, full in zip((x, y), wide):
        full[mask > 0] = a
    np.testing.assert_allclose(linear_cka(*wide, mask, debiased=debiased), want, rtol=1e-5)
    streamed = stream(*wide, [20, 50], mask)
    np.testing.assert_allclose(streamed.cka(debiased=debiased), want, rtol=1e-4)


@BOTH
@pytest.mark.parametrize("splits", [[60], [1, 59], [2, 3, 5, 50], [59, 1], [20, 20, 20]])
def test_moments_do_not_see_the_batches(splits, debiased):
    x, y = features()
    want = linear_cka(x, y, debiased=debiased)
    np.testing.assert_allclose(stream(x, y, splits).cka(debiased=debiased), want, rtol=2e-4)


def test_moments_of_parts_add_up():
    x, y = features()
    start = Moments.start(x[:20], y[:20])
    parts = start.update(x[:20], y[:20]) + start.update(x[20:], y[20:])
    np.testing.assert_allclose(parts.cka(), linear_cka(x, y), rtol=1e-4)


def test_all_pairs_at_once():
    x, y = features()
    first, second = [x, x[:, :3]], [y, y[:, :5], x]
    got = hsic(first, second).cka()
    assert got.shape == (2, 3)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            np.testing.assert_allclose(got[i, j], linear_cka(a, b), rtol=1e-5)


def test_minibatch_terms_are_unbiased():
    """Over all batches of 4 of 8 rows the mean of each term is that of all 8 rows."""
    import itertools

    x, y = (a[:8] for a in features())
    want = hsic([x], [y])
    batches = [[*rows] for rows in itertools.combinations(range(8), 4)]
    total = functools.reduce(lambda a, b: a + b, (hsic([x[r]], [y[r]]) for r in batches))
    for name in ("cross", "first", "second"):
        got = getattr(total, name) / len(batches)
        np.testing.assert_allclose(got, getattr(want, name), rtol=1e-4, err_msg=name)


def test_a_short_batch_adds_nothing():
    x, y = features()
    whole, short = hsic([x], [y]), hsic([x[:3]], [y[:3]])
    for total in (whole + short, whole.by_pairs() + short.by_pairs()):
        np.testing.assert_allclose(total.cka(), whole.cka(), rtol=1e-6)


def test_unrelated_wide_features_are_not_similar_once_debiased():
    random = np.random.default_rng(0)
    x, y = (random.normal(size=(50, 500)).astype(np.float32) for _ in range(2))
    assert linear_cka(x, y, debiased=False) > 0.8
    assert abs(linear_cka(x, y)) < 0.05
    assert abs(stream(x, y, [25, 25]).cka()) < 0.05


@BOTH
@pytest.mark.parametrize("constant", [0.0, 0.1, 1000.1])
def test_constant_features_are_nan(constant, debiased):
    x, y = features()
    x = np.full_like(x, constant)
    assert np.isnan(linear_cka(x, y, debiased=debiased))
    assert np.isnan(stream(x, y, [25, 35]).cka(debiased=debiased))


def test_too_few_rows():
    x, y = features()
    with pytest.raises(ValueError, match=r"3 rows.*at least 4"):
        linear_cka(x[:3], y[:3])
    with pytest.raises(ValueError, match=r"3 rows.*at least 4"):
        linear_cka(x, y, np.arange(60) < 3)
    with pytest.raises(ValueError, match=r"1 rows.*at least 2"):
        linear_cka(x[:1], y[:1], debiased=False)
    assert np.isfinite(linear_cka(x[:4], y[:4])) and np.isfinite(
        linear_cka(x[:3], y[:3], debiased=False)
    )
    assert np.isnan(jax.jit(linear_cka)(x, y, np.arange(60) < 3))
    assert np.isnan(Moments.start(x, y).update(x[:3], y[:3]).cka())


@BOTH
def test_an_offset_costs_no_digits(debiased):
    x, y = features()
    want = reference(x, y, debiased)
    x, y = x + np.float32(2**13), y - np.float32(2**14)
    want_moved = reference(x, y, debiased)  # the offset rounds the features themselves
    np.testing.assert_allclose(want_moved, want, rtol=1e-2)
    np.testing.assert_allclose(linear_cka(x, y, debiased=debiased), want_moved, rtol=1e-5)
    streamed = stream(x, y, [20, 40]).cka(debiased=debiased)
    np.testing.assert_allclose(streamed, want_moved, rtol=1e-4)


@BOTH
@pytest.mark.parametrize("n", [60, 200, 1000])
@pytest.mark.parametrize("splits", [1, 2, 4])
def test_an_outlier_costs_few_digits(n, splits, debiased):
    """A row 50 standard deviations out; relative to 1, as CKA may be near 0."""
    x, y = features(n)
    for a in (x, y):
        a[n // 3] = a.mean(0) + 50 * a.std(0) * np.where(np.arange(a.shape[1]) % 3, 1, -1)
    got = stream(x, y, [n // splits] * splits).cka(debiased=debiased)
    np.testing.assert_allclose(got, reference(x, y, debiased), rtol=0, atol=3e-5)


def test_half_precision_features_are_computed_in_float32():
    x, y = (jnp.asarray(a, jnp.bfloat16) for a in features())
    got = linear_cka(x, y)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, linear_cka(*(a.astype(jnp.float32) for a in (x, y))))


def test_compiled_once(monkeypatch):
    traces = []
    gram = cka._gram
    monkeypatch.setattr(cka, "_gram", lambda *a: traces.append(0) or gram(*a))
    for seed in range(3):
        x, y = features(n=44, seed=seed)
        linear_cka(x, y, np.arange(44) < 40 + seed)
    assert len(traces) == 2  # of one trace: x and y


SCALES = (1e-10, 1e-5, 1.0, 1e5, 1e10)


@BOTH
@pytest.mark.parametrize("x_scale", SCALES)
@pytest.mark.parametrize("y_scale", [1e-10, 1e10])
def test_the_scale_of_the_features_changes_nothing(x_scale, y_scale, debiased):
    x, y = features()
    x, y = np.float32(x_scale) * x, np.float32(y_scale) * y
    want = reference(x, y, debiased)
    np.testing.assert_allclose(linear_cka(x, y, debiased=debiased), want, rtol=1e-5)
    layers = hsic([x, y], [y, x], debiased=debiased).cka()  # layers of unlike scales
    np.testing.assert_allclose(layers, [[want, 1], [1, want]], rtol=1e-5)
    np.testing.assert_allclose(stream(x, y, [25, 35]).cka(debiased=debiased), want, rtol=1e-4)


@BOTH
@pytest.mark.parametrize("first", [1e-10, 1e-5, 1e5, 1e10])
def test_batches_of_unlike_scales(first, debiased):
    x, y = features()
    for a, moved in ((x, 3.0), (y, -50.0)):
        a[:25] = np.float32(first) * (a[:25] + np.float32(moved))
    want = reference(x, y, debiased)
    np.testing.assert_allclose(stream(x, y, [25, 35]).cka(debiased=debiased), want, rtol=2e-4)
    other_way = stream(x[::-1], y[::-1], [35, 25]).cka(debiased=debiased)
    np.testing.assert_allclose(other_way, want, rtol=2e-4)
    parts = [(x[:25], y[:25]), (x[25:], y[25:])]
    minibatch = functools.reduce(
        lambda a, b: a + b, (hsic([a], [b], debiased=debiased) for a, b in parts)
    )
    larger = parts[0 if first > 1 else 1]  # beside which the other is nothing
    expected = reference(*larger, debiased)
    np.testing.assert_allclose(minibatch.cka(), expected, rtol=1e-3)


@BOTH
@pytest.mark.parametrize("rows", [0, 1, 20])
@pytest.mark.parametrize("kind", ["tiny", "zero", "masked"])
def test_a_first_batch_of_next_to_nothing_harms_nothing(kind, rows, debiased):
    x, y = features()
    x, y = x + np.float32(200), y - np.float32(500)  # a location unknown to the first batch
    more = {"tiny": 1e-20, "zero": 0.0, "masked": np.nan}[kind]
    head = [np.full((rows, a.shape[1]), more, np.float32) for a in (x, y)]
    mask = np.r_[np.full(rows, kind != "masked"), np.ones(60)]
    whole = [np.concatenate(pair) for pair in zip(head, (x, y))]
    want = reference(*(a[mask > 0] for a in whole), debiased)
    got = stream(*whole, [rows, 60], mask).cka(debiased=debiased)
    np.testing.assert_allclose(got, want, rtol=2e-4)
    np.testing.assert_allclose(linear_cka(*whole, mask, debiased=debiased), want, rtol=1e-4)
    batches = (slice(rows), slice(rows, None))
    parts = [hsic(*([a[at]] for a in whole), mask[at], debiased=debiased) for at in batches]
    alone = linear_cka(x, y, debiased=debiased)
    np.testing.assert_allclose((parts[0] + parts[1]).cka(), alone, rtol=1e-6)


def test_moments_of_unlike_starts_add_up():
    x, y = (1000 + a for a in features())
    parts = [Moments.start(x, y).update(x[at], y[at]) for at in (slice(0, 9), slice(9, 60))]
    for total in (parts[0] + parts[1], parts[1] + parts[0]):
        np.testing.assert_allclose(total.cka(), reference(x, y, True), rtol=1e-4)


@pytest.mark.parametrize("scale", SCALES)
def test_a_denominator_of_nothing_but_rounding_is_nan(scale):
    """One row unlike all others has a debiased HSIC with itself of 0, but for rounding."""
    random = np.random.default_rng(0)
    x = np.tile(random.normal(size=9), (60, 1))
    x[7] = random.normal(size=9)
    x, y = np.float32(scale * x), features()[1]
    assert np.isnan(linear_cka(x, y)) and np.isnan(linear_cka(y, x))
    assert np.isnan(stream(x, y, [25, 35]).cka())
    assert np.isfinite(linear_cka(x, y, debiased=False))


@BOTH
@pytest.mark.parametrize("constant", [1e-10, 0.1, 1e10])
def test_features_that_vary_by_rounding_alone_are_nan(constant, debiased):
    x, y = features()
    x = np.full_like(x, constant)
    x[::2] = np.nextafter(x[::2], np.float32(np.inf))
    assert np.isnan(linear_cka(x, y, debiased=debiased))
    assert np.isnan(stream(x, y, [25, 35]).cka(debiased=debiased))
    both = hsic([x, y], [y], debiased=debiased).cka()[:, 0]
    assert np.isnan(both[0]) and both[1] == pytest.approx(1)
    total = hsic([x], [y], debiased=debiased) + hsic([y], [y], debiased=debiased)
    assert np.isfinite(total.cka()).all()  # a batch of constant features adds nothing


@BOTH
def test_features_that_are_not_finite_are_nan_where_they_occur(debiased):
    x, y = features()
    spoilt = x.copy()
    spoilt[3, 2] = np.inf
    found = hsic([spoilt, x], [y], debiased=debiased).cka()[:, 0]
    assert np.isnan(found[0]) and np.isfinite(found[1])
    assert np.isnan(stream(spoilt, y, [25, 35]).cka(debiased=debiased))
