"""The divergence keeps its relative precision at any temperature, and as the student nears."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairkd_jax import losses

pytestmark = pytest.mark.quick

TEMPERATURES = (0.05, 1.0, 20.0, 1000.0)


def exact(teacher: np.ndarray, student: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
    """(KL, its gradient to the student) by extended precision."""
    a, b = (np.asarray(x, np.longdouble) / np.longdouble(np.float32(t)) for x in (teacher, student))
    a, b = (x - x.max(axis=1, keepdims=True) for x in (a, b))
    a, b = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (a, b))
    value = np.sum(np.exp(a) * (a - b), axis=1)
    return value, (np.exp(b) - np.exp(a)) / np.longdouble(np.float32(t))


def pairs(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits of teacher and student, float32 [n, C]."""
    rng = np.random.default_rng(0)
    classes = 1000 if kind == "many" else 5
    scale = {"large": 50.0, "huge": 1e4}.get(kind, 3.0)
    teacher = (scale * rng.normal(size=(64, classes))).astype(np.float32)
    near = {"1e-1": 0.1, "1e-3": 1e-3, "1e-5": 1e-5, "many": 1e-2}.get(kind)
    other = scale * rng.normal(size=teacher.shape)
    student = other if near is None else teacher + near * rng.normal(size=teacher.shape)
    return teacher, student.astype(np.float32)


def assert_near(found, wanted, place: str) -> None:
    """Within 1e-5 of the largest number of each row, where float32 has that number at all."""
    found, wanted = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (found, wanted))
    size = np.abs(wanted).max(axis=1, keepdims=True)
    wrong = np.abs(found - wanted) / np.maximum(size, 1e-30)
    assert np.isfinite(found).all() and wrong[size[:, 0] > 1e-30].max(initial=0) < 1e-5, place


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
