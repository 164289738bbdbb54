"""Distillation of logits where an answer is known without a reference: limits, equalities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from fairkd_jax import losses, registry
from fairkd_jax.distill.ae_kd import AEKD, min_norm
from fairkd_jax.distill.agre_kd import AGREKD
from fairkd_jax.distill.dedier import DeDiER
from fairkd_jax.distill.dist import DIST
from fairkd_jax.distill.dkd import DKD
from fairkd_jax.distill.label_smoothing import LabelSmoothing
from fairkd_jax.distill.logits import Logits
from fairkd_jax.testing.distill import batch, close, make_now, make_spec, outputs
from fairkd_jax.types import Outputs

STUDENT, *TEACHERS = (outputs(5, seed, name=name) for seed, name in enumerate(("", "a", "b", "c")))


def loss(method, teachers=TEACHERS, student=STUDENT, **more):
    run = jax.jit(lambda *nets: method(*nets, batch() | more, {}, make_now()).per_example)
    return run(student, tuple(teachers))


def slope(method, teachers=TEACHERS):
    def total(z):
        return jnp.sum(loss(method, teachers, STUDENT.replace(logits=z)))

    return jax.jit(jax.grad(total))(STUDENT.logits)


def test_to_the_mean_of_probabilities_is_lower_and_has_the_same_gradient():
    """By convexity; forward divergences differ by what no student changes."""
    shared = [t.replace(share=w) for t, w in zip(TEACHERS, (1.0, 0.0, 2.0))]
    apart, mean = Logits(), Logits(mean="probabilities")
    assert (loss(mean, shared) < loss(apart, shared)).all()
    close(slope(mean, shared), slope(apart, shared))
    close(loss(mean, shared[:1]), loss(apart, shared[:1]))


@pytest.mark.parametrize("option, value", [("divergence", "backward"), ("mean", "logits")])
def test_a_divergence_that_is_none_is_named(option, value):
    with pytest.raises(registry.UnknownName, match=f"{option} of distill.logits: '{value}'"):
        registry.build("distill", {"name": "logits", option: value})


def test_distillation_is_the_label_and_the_rest_as_the_teacher_weighs_it():
    """`KD = TCKD + (1 - p_y) NCKD` (arXiv 2203.08679)."""
    method, label = DKD(temperature=3.0), batch()["label"]
    teacher = TEACHERS[0].logits
    tckd, nckd = method.terms(teacher, STUDENT.logits, label)
    p = jnp.take_along_axis(jax.nn.softmax(teacher / 3), label[:, None], axis=1)[:, 0]
    close(tckd + (1 - p) * nckd, loss(Logits(temperature=3.0), TEACHERS[:1]), rtol=1e-4)
    # An example without a known label is distilled whole.
    unknown = loss(method, TEACHERS[:1], labelled=jnp.zeros(6))
    close(unknown, loss(Logits(temperature=3.0), TEACHERS[:1]))


@pytest.mark.parametrize("name", ["dkd", "dist", "ae_kd", "agre_kd", "mse", "label_smoothing"])
def test_finite_where_logits_are_huge(name):
    method, nets = registry.build("distill", {"name": name}), (STUDENT, *TEACHERS)
    huge = [Outputs(1e4 * net.logits.round(1), name=net.name) for net in nets]

    def total(z):
        kd = method(Outputs(z), tuple(huge[1:]), batch(), {}, make_now())
        return jnp.sum(kd.per_example) + kd.penalty

    value, gradient = jax.jit(jax.value_and_grad(total))(huge[0].logits)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_one_class_beside_the_label_leaves_nothing_to_tell():
    two = [net.replace(logits=net.logits[:, :2]) for net in (STUDENT, TEACHERS[0])]
    tckd, nckd = DKD(temperature=2.0).terms(two[1].logits, two[0].logits, batch()["label"] % 2)
    assert not nckd.any()
    close(tckd, loss(Logits(temperature=2.0), two[1:], two[0]), rtol=1e-4)


def test_a_teacher_that_knows_nothing_smooths_labels():
    uniform = jnp.full((6, 3), 1 / 3)
    cross = lambda z: jnp.sum(losses.soft_cross_entropy(z, uniform))  # noqa: E731
    smooth = jax.grad(cross)(STUDENT.logits)
    close(slope(LabelSmoothing()), smooth)


def test_correlation_over_examples_is_blind_to_padding():
    method, nan = DIST(), jnp.full((2, 3), jnp.nan)
    real = jnp.asarray([1.0, 0, 1, 1, 1, 0, 1, 1])

    def total(z, teacher, real):
        kd = method(Outputs(z), (Outputs(teacher),), {"real": real}, {}, make_now())
        return losses.masked_mean(kd.per_example, real) + kd.penalty

    spread = [jnp.insert(n.logits, jnp.array([1, 4]), nan, axis=0) for n in (STUDENT, TEACHERS[0])]
    run = jax.jit(jax.value_and_grad(total))
    value, gradient = run(STUDENT.logits, TEACHERS[0].logits, jnp.ones(6))
    padded, theirs = run(*spread, real)
    close((padded, theirs[real > 0]), (value, gradient))


def test_weights_of_least_norm_are_those_of_a_solver():
    """Several problems as lanes; one of them with two teachers alike, whose weights are not one."""
    r, caps = np.random.RandomState(0), np.array([0.3, 0.6, 1.0, 0.25, 0.5, 1.0])
    slopes = r.randn(6, 4, 5) + 0.5 * r.randn(6, 1, 5)
    slopes[1, 1] = slopes[1, 0]
    gram = np.einsum("pmc,pnc->pmn", slopes, slopes)
    found = jax.jit(jax.vmap(min_norm))(np.float32(gram), np.float32(caps))
    for a, g, cap in zip(np.asarray(found, np.float64), gram, caps):
        best = minimize(
            lambda a, g=g: a @ g @ a / 2,
            np.full(4, 0.25),
            jac=lambda a, g=g: g @ a,
            bounds=[(0, cap)] * 4,
            constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
            options={"ftol": 1e-12},
        )
        assert (a >= 0).all() and (a <= cap + 1e-6).all() and abs(a.sum() - 1) < 1e-6
        np.testing.assert_allclose(a @ g @ a / 2, best.fun, rtol=1e-4, atol=1e-7)


def test_no_teacher_outweighs_another_where_the_cap_is_tight():
    close(loss(AEKD(cap=0.1, normalise=False)), loss(Logits()))


def test_a_teacher_that_pulls_as_the_biased_net_does_weighs_nothing():
    biased = TEACHERS[1].replace(name="biased")
    alike = biased.replace(name="alike")
    close(loss(AGREKD(), (TEACHERS[0], alike, biased)), loss(Logits(), TEACHERS[:1]))
    with pytest.raises(registry.UnknownName, match=r"agre_kd.biased: 'biased'.*Choices: a, b"):
        AGREKD().check(make_spec(STUDENT, tuple(TEACHERS[:2])))
    with pytest.raises(ValueError, match="needs another teacher"):
        AGREKD().check(make_spec(STUDENT, (biased,)))


def test_what_is_misread_with_confidence_weighs_more_after_the_wait():
    method, labels = DeDiER(tap="stem", alpha=0.5), batch()["label"]
    params, _ = method.init(make_spec(STUDENT, tuple(TEACHERS)), jax.random.key(0))
    params["head"]["bias"] = jnp.asarray([4.0, 0.0, -4.0])  # always the first class
    p = np.sort(jax.nn.softmax(params["head"]["bias"]))
    weight = np.where(labels == 0, 1.0, np.exp(3 * (p[2] - p[1]) ** 0.5))
    for step, wanted in ((9, np.ones(6)), (10, weight)):
        kd = method(STUDENT, tuple(TEACHERS), batch(), params, make_now(step=step))
        close(kd.task_weight, jnp.asarray(wanted, jnp.float32))
        close(kd.per_example, kd.task_weight * loss(Logits(temperature=3.0)))
    with pytest.raises(ValueError, match="has no blocks"):
        DeDiER().check(make_spec(Outputs(STUDENT.logits), tuple(TEACHERS)))
