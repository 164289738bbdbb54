"""What every measure of similarity must keep, whoever wrote it. `plugin` is its config."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from fairkd_jax import registry
from fairkd_jax.representation import all_pairs
from fairkd_jax.representation.cka import Moments
from fairkd_jax.representation.measure import INVARIANCES, Measure

ROWS, THERE, WIDTH = 64, 48, 6
UNSEEN, SEEN = 1e-5, 1e-3  # what a change of no effect makes, in float64, and what one of effect


@pytest.fixture(scope="module")
def measure(plugin):
    return registry.build("similarity", plugin)


@functools.partial(jax.jit, static_argnums=0)
def between(measure, x, y, mask, some):
    """Of the examples `some` of those with mask 1."""
    a, b = (measure.settle(measure.relate(z, mask), some) for z in (x, y))
    return measure.pair(a, b, some)


@functools.partial(jax.jit, static_argnums=0)
def of_sums(measure, parts):
    """Of the sums over parts (x, y, mask) of equal shapes."""

    def add(done, part):
        return done.update(*part), None

    return measure.of_sums(jax.lax.scan(add, Moments.start(*(p[0] for p in parts)), parts)[0])


def layers(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two related layers, whose columns differ in size and are skewed; not centred."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(THERE, WIDTH)) * np.geomspace(1, 6, WIDTH)
    y = np.tanh(x @ random.normal(size=(WIDTH, WIDTH)) / 3) * np.geomspace(4, 1, WIDTH)
    return x + random.normal(size=WIDTH), y + 0.2 * random.normal(size=y.shape)


def padded(x, at=slice(0, THERE), value=0.0):
    """The rows in places `at` of a larger array."""
    found = np.full((ROWS, x.shape[1]), value, x.dtype)
    found[at] = x
    return found


def value(measure: Measure, x, y, at=slice(0, THERE), garbage=0.0) -> float:
    mask = padded(np.ones((len(x), 1), x.dtype), at)[:, 0]
    with jax.enable_x64(x.dtype == np.float64):
        x, y = padded(x, at, garbage), padded(y, at, garbage)
        return float(between(measure, x, y, mask, mask))


def changed(invariance: str, x: np.ndarray, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    if invariance == "orthogonal":
        return x @ scipy.stats.ortho_group.rvs(WIDTH, random_state=seed)
    if invariance == "isotropic_scale":
        return x * 10.0 ** random.uniform(-2, 2)
    if invariance == "translation":
        return x + 5 * random.normal(size=WIDTH)
    return x @ (random.normal(size=(WIDTH, WIDTH)) * np.geomspace(1, 4, WIDTH))


@pytest.mark.parametrize("invariance", INVARIANCES)
def test_it_has_the_invariances_that_it_declares_and_no_others(measure, invariance):
    assert {*measure.keeps} <= {*INVARIANCES}
    x, y = layers()
    was = value(measure, x, y)
    found = [
        value(measure, changed(invariance, x, s), changed(invariance, y, 9 + s)) for s in (1, 2)
    ]
    most = np.abs(np.array(found) - was).max()
    assert (most < UNSEEN) if invariance in measure.keeps else (most > SEEN)


def test_a_layer_is_the_same_as_itself_and_not_as_another(measure):
    x, y = layers()
    assert value(measure, x, x) == pytest.approx(measure.same, abs=1e-5)
    related, null = value(measure, x, y), value(measure, x, np.roll(y, 7, axis=0))
    assert abs(related - measure.same) > SEEN
    assert abs(null - measure.same) > abs(related - measure.same) + SEEN


def test_padding_shows_nowhere(measure):
    x, y = layers()
    at = np.sort(np.random.default_rng(3).permutation(ROWS)[:THERE])
    assert value(measure, x, y, at, 1e4) == pytest.approx(value(measure, x, y), abs=UNSEEN)


def test_the_order_of_examples_does_not_show(measure):
    x, y = layers()
    order = np.random.default_rng(3).permutation(THERE)
    assert value(measure, x[order], y[order]) == pytest.approx(value(measure, x, y), abs=UNSEEN)


@pytest.mark.parametrize("scale", [1e-10, 1e10])
def test_scale_is_seen_in_float32_as_it_is_declared(measure, scale):
    x, y = (z.astype(np.float32) for z in layers())
    was, found = value(measure, x, y), value(measure, x * np.float32(scale), y)
    if "isotropic_scale" in measure.keeps:
        assert found == pytest.approx(was, abs=1e-3)  # neighbours and ranks may turn by rounding
    else:
        assert np.isfinite(found) and abs(found - was) > SEEN


@pytest.mark.parametrize("constant", [0.0, 0.1, 1000.1])
def test_features_that_do_not_vary_are_nan(measure, constant):
    x, y = layers()
    same = np.full_like(x, constant)
    for pair in ((same, y), (x, same), (same, same)):
        assert np.isnan(value(measure, *pair))


def test_features_that_are_not_finite_are_nan(measure):
    x, y = layers()
    x[3, 2] = np.nan
    assert np.isnan(value(measure, x, y)) and np.isnan(value(measure, y, x))


def test_too_few_examples_are_nan_with_the_reason(measure):
    x, y = (padded(z.astype(np.float32)) for z in layers())
    n = measure.least - 1
    assert n >= 1 and measure.undefined
    found = all_pairs.of_rows(measure, {"a": x}, {"b": y}, n, np.arange(n))
    varies = np.ones(1, bool), np.ones(1, bool)
    found, reasons = all_pairs.known(measure, found, n, varies, (["a"], ["b"]))
    assert all(np.isnan(part).all() for part in vars(found).values())
    assert str(n) in reasons[0] and str(measure.least) in reasons[0]


def test_what_streams_is_that_of_all_rows_whatever_the_batches(measure):
    """Ragged batches, and rows that are left out."""
    x, y = layers()
    if not measure.streams:
        with pytest.raises(NotImplementedError, match="needs all pairs of examples"):
            measure.of_sums(Moments.start(x, y))
        return
    sizes = [5, 19, 16, 8]
    cuts = np.cumsum([0, *sizes])
    parts = [
        tuple(np.pad(z[a:b], ((0, 19 - (b - a)), (0, 0))) for z in (x, y, np.ones((THERE, 1))))
        for a, b in itertools.pairwise(cuts)
    ]
    x_parts, y_parts, masks = (np.stack(part) for part in zip(*parts))
    with jax.enable_x64(True):
        found = float(of_sums(measure, (x_parts, y_parts, masks[:, :, 0])))
    assert found == pytest.approx(value(measure, x, y), abs=UNSEEN)


def test_leaving_examples_out(measure):
    """Exactly what is left where the measure streams; else about it, as ranks and nearness stay."""
    x, y = layers()
    mask = (np.arange(ROWS) < THERE).astype(float)
    fewer = mask * (np.arange(ROWS) % 8 != 3)
    with jax.enable_x64(True):
        found = float(between(measure, padded(x), padded(y), mask, fewer))
    kept = fewer[:THERE] > 0
    at = np.flatnonzero(fewer)
    wanted = value(measure, x[kept], y[kept], at)
    assert found == pytest.approx(wanted, abs=UNSEEN if measure.streams else 0.1)


def test_it_is_a_frozen_dataclass_of_options_and_says_what_it_is(measure, plugin):
    assert dataclasses.is_dataclass(measure) and measure == registry.build("similarity", plugin)
    hash(measure)
    assert measure.same in (0.0, 1.0) and measure.least >= 2
    x = jnp.zeros((ROWS, WIDTH))
    found = jax.eval_shape(measure.between, x, x, jnp.zeros(ROWS))
    assert found.shape == ()
