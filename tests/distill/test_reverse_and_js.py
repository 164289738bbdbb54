"""Reverse KL and Jensen-Shannon keep their relative precision as the forward divergence does."""

import decimal
import functools
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_divergence import TEMPERATURES, assert_near, pairs

from fairkd_jax import losses

KINDS = {
    "reverse": losses.reverse_kl_divergence,
    "jensen_shannon": losses.jensen_shannon_divergence,
}


def exact(kind: str, teacher: np.ndarray, student: np.ndarray, t: float) -> tuple:
    """(divergence, its gradient to the student) with 60 digits."""
    values, gradients = [], []
    with decimal.localcontext(prec=60, Emin=-decimal.MAX_EMAX):
        scale, two = Decimal(float(np.float32(t))), Decimal(2)
        for rows in zip(np.asarray(teacher, np.float64), np.asarray(student, np.float64)):
            both = [[Decimal(x) / scale for x in row.tolist()] for row in rows]
            both = [(row, max(row)) for row in both]
            both = [(row, m + sum((x - m).exp() for x in row).ln()) for row, m in both]
            p, q = ([(x - total).exp() for x in row] for row, total in both)
            log_p, log_q = ([x - total for x in row] for row, total in both)
            log_m = [((a + b) / two).ln() for a, b in zip(p, q)]
            kl = lambda p, log_p, log_r: sum(  # noqa: E731
                w * (a - b) for w, a, b in zip(p, log_p, log_r)
            )
            against, share = (log_p, 1) if kind == "reverse" else (log_m, two)
            one = kl(q, log_q, against)
            values.append(float(one if kind == "reverse" else (one + kl(p, log_p, log_m)) / two))
            slope = [w * (a - b - one) / share / scale for w, a, b in zip(q, log_q, against)]
            gradients.append([float(x) for x in slope])
    return np.array(values), np.array(gradients)


@functools.cache
def compiled(kind: str):
    def run(teacher, student, t):
        value, pullback = jax.vjp(lambda s: KINDS[kind](teacher, s, t), student)
        return value, pullback(jnp.ones_like(value))[0]

    return jax.jit(run)


@pytest.mark.parametrize("pair", ["random", "1e-1", "1e-3", "1e-5", "many", "large", "huge"])
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_are_those_of_extended_precision(kind, pair):
    teacher, student = pairs(pair)
    for t in TEMPERATURES:
        found = compiled(kind)(teacher, student, np.float32(t))
        for name, a, b in zip(("value", "gradient"), found, exact(kind, teacher, student, t)):
            assert_near(a, b, f"{name} at T = {t}")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_where_both_are_equal(kind):
    teacher, student = map(jnp.asarray, pairs("random"))
    value, gradient = compiled(kind)(teacher, teacher, np.float32(20))
    assert not np.any(value) and not np.any(gradient)
    half = KINDS[kind](*(x.astype(jnp.bfloat16) for x in (teacher, student)))
    assert half.dtype == jnp.float32 and np.isfinite(half).all()


def test_second_derivatives_are_those_of_the_plain_formula():
    """Which automatic differentiation gives from formulas in float64."""

    def plain(kind, teacher, student):
        p, q = jax.nn.softmax(teacher / 2), jax.nn.softmax(student / 2)
        if kind == "reverse":
            return jnp.sum(q * jnp.log(q / p), axis=1)
        m = (p + q) / 2
        return jnp.sum(p * jnp.log(p / m) + q * jnp.log(q / m), axis=1) / 2

    with jax.enable_x64(True):
        teacher, student = (jnp.asarray(x[:3], jnp.float64) for x in pairs("random"))
        for kind in KINDS:
            ours, theirs = (
                jax.jit(jax.hessian(lambda s, f=f: jnp.sum(f(teacher, s))))(student)
                for f in (lambda t, s, k=kind: KINDS[k](t, s, 2.0), functools.partial(plain, kind))
            )
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)
