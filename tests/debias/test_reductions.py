"""Rows that the mask leaves out take no part in a mean or a sum, nor in its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairkd_jax import losses

pytestmark = pytest.mark.quick

MASK = np.array([1, 0, 0.25, 1, 0, 0, 0.5])
GROUP = np.array([0, 0, 1, 1, 2, 3, 0])


@pytest.fixture(autouse=True)
def double():
    """Float64, for tight tolerances."""
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e308])
def test_a_row_left_out_spoils_neither_value_nor_gradient(bad):
    rng = np.random.default_rng(0)
    values = np.where(MASK == 0, bad, rng.normal(size=7))
    kept = np.where(MASK == 0, 0, values)

    mask, group = jnp.asarray(MASK), jnp.asarray(GROUP)
    mean, gradient = jax.value_and_grad(losses.masked_mean)(jnp.asarray(values), mask)
    np.testing.assert_allclose(mean, kept @ MASK / MASK.sum(), rtol=1e-14)
    np.testing.assert_allclose(gradient, MASK / MASK.sum(), rtol=1e-14)

    member = np.eye(4)[GROUP] * MASK[:, None]
    sums, counts = losses.group_sums(jnp.asarray(values), group, mask, 4)
    np.testing.assert_allclose(sums, kept @ member, rtol=1e-14)
    np.testing.assert_allclose(counts, member.sum(axis=0), rtol=1e-14)
    total = jax.jacobian(lambda v: losses.group_sums(v, group, mask, 4)[0])
    np.testing.assert_allclose(total(jnp.asarray(values)), member.T, rtol=1e-14)


def test_without_rows_the_mean_is_0():
    spoilt, nobody = jnp.full(7, jnp.nan), jnp.zeros(7)
    assert losses.masked_mean(spoilt, nobody) == 0
    means, counts = losses.group_means(spoilt, jnp.asarray(GROUP), nobody, 4)
    assert not means.any() and not counts.any()


def test_a_row_that_counts_shows_its_nan():
    assert np.isnan(losses.masked_mean(jnp.asarray([1.0, jnp.nan]), jnp.ones(2)))
