"""The divergence keeps its relative precision at any temperature, and as the student nears."""

import decimal
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairkd_jax import losses

TEMPERATURES = (0.05, 1.0, 20.0, 1000.0)


def exact(teacher: np.ndarray, student: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
    """(KL, its gradient to the student) with 40 digits, for near-equal numbers are subtracted."""
    values, gradients = [], []
    with decimal.localcontext(prec=40):
        scale = Decimal(float(np.float32(t)))
        for rows in zip(np.asarray(teacher, np.float64), np.asarray(student, np.float64)):
            a, b = ([Decimal(x) / scale for x in row.tolist()] for row in rows)
            a, b = ([x - max(row) for x in row] for row in (a, b))
            both = [(row, sum(x.exp() for x in row).ln()) for row in (a, b)]
            a, b = ([x - total for x in row] for row, total in both)
            values.append(float(sum(x.exp() * (x - y) for x, y in zip(a, b))))
            gradients.append([float((y.exp() - x.exp()) / scale) for x, y in zip(a, b)])
    return np.array(values), np.array(gradients)


def pairs(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits of teacher and student, float32 [n, C]."""
    rng = np.random.default_rng(0)
    classes = 1000 if kind == "many" else 5
    scale = {"large": 50.0, "huge": 1e4}.get(kind, 3.0)
    teacher = (scale * rng.normal(size=(max(1, 30 // classes), classes))).astype(np.float32)
    near = {"1e-1": 0.1, "1e-3": 1e-3, "1e-5": 1e-5, "many": 1e-2}.get(kind)
    other = scale * rng.normal(size=teacher.shape)
    student = other if near is None else teacher + near * rng.normal(size=teacher.shape)
    return teacher, student.astype(np.float32)


def assert_near(found, wanted, place: str) -> None:
    """Within 1e-5 of the largest number of each row.

    Where that is below 1e-20 it is e^-x for a large x, and float32 rounds x: within 1e-4.
    """
    found, wanted = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (found, wanted))
    size = np.abs(wanted).max(axis=1, keepdims=True)
    wrong = np.abs(found - wanted) / np.maximum(size, 1e-30)
    assert np.isfinite(found).all(), place
    for least, most in ((1e-20, 1e-5), (1e-30, 1e-4)):
        assert wrong[size[:, 0] > least].max(initial=0) < most, place


@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize("kind", ["random", "1e-1", "1e-3", "1e-5", "many", "large", "huge"])
def test_value_and_gradient_are_those_of_extended_precision(kind, t):
    teacher, student = map(jnp.asarray, pairs(kind))
    kl = jax.jit(lambda s: losses.kl_divergence(teacher, s, t))
    value, gradient = exact(teacher, student, t)
    assert_near(kl(student), value, "value")
    assert_near(jax.grad(lambda s: jnp.sum(kl(s)))(student), gradient, "gradient")


def test_nothing_is_lost_by_a_common_offset_or_where_both_are_equal():
    teacher, student = map(jnp.asarray, pairs("1e-3"))
    kl = jax.value_and_grad(lambda s: jnp.sum(losses.kl_divergence(teacher, s, 20.0)))
    value, gradient = kl(teacher)
    assert value == 0 and not np.any(gradient)
    moved = jnp.sum(losses.kl_divergence(teacher, student + np.float32(4.0), 20.0))
    np.testing.assert_allclose(moved, kl(student)[0], rtol=5e-3)  # student + 4 is itself rounded
    half = losses.kl_divergence(*(jnp.asarray(x, jnp.bfloat16) for x in pairs("random")))
    assert half.dtype == jnp.float32 and np.isfinite(half).all()
