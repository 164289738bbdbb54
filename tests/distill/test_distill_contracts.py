"""Every file in distill/ keeps the contract; and where an answer is known without a reference."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from fairkd_jax import registry
from fairkd_jax.distill.hidden import Hidden
from fairkd_jax.distill.logits import Logits
from fairkd_jax.distill.pairs import meet
from fairkd_jax.testing.distill import *  # noqa: F403
from fairkd_jax.testing.distill import (
    CLASSES,
    batch,
    close,
    make_now,
    make_spec,
    outputs,
    run,
    setting,
)
from fairkd_jax.types import Outputs

sys.path.append(str(ROOT / "tests" / "outside" / "project"))
OUTSIDE = ("my_project.methods.dkd", "my_project.methods.ensembling")


@pytest.fixture(params=(*registry.available("distill"), *OUTSIDE))
def plugin(request):
    return {"name": request.param}


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_identical_nets_have_nothing_to_teach(temperature):
    """Exactly, op by op; a compiler may round the two sides apart, by 1e-7 before the `T^2`."""
    method, net = Logits(temperature=temperature), outputs(5, 0)
    assert (method(net, (net,), batch(), {}, make_now()).per_example == 0).all()
    (loss, _), (_, grads) = run(method, {}, net, (net,), batch(), make_now())
    np.testing.assert_allclose(loss, 0, atol=1e-7 * temperature**2)
    np.testing.assert_allclose(grads.logits, 0, atol=1e-6)


def test_the_limit_of_high_temperature_is_centred_squared_error():
    """`T^2 KL -> |c(zs) - c(zt)|^2 / 2C`; float64, for T^2 amplifies rounding."""
    with jax.enable_x64(True):
        r = np.random.RandomState(0)
        zs, zt = jnp.asarray(r.randn(8, 5)), jnp.asarray(2 * r.randn(8, 5))
        kd = Logits(temperature=1e4)(Outputs(zs), (Outputs(zt),), {}, {}, make_now()).per_example
        gap = (zs - zs.mean(1, keepdims=True)) - (zt - zt.mean(1, keepdims=True))
        np.testing.assert_allclose(kd, (gap**2).sum(1) / 10, rtol=1e-3)


def test_losses_of_several_teachers_are_averaged():
    _, student, (a, b), made, now = setting(Logits())
    method = Logits(temperature=3.0)
    one = [method(student, (t,), made, {}, now).per_example for t in (a, b)]
    close(method(student, (a, b), made, {}, now).per_example, (one[0] + one[1]) / 2)


@pytest.mark.parametrize("shares", [(2.0, 1.0), (0.0, 3.0), (None, None), (0.5, None)])
def test_losses_of_several_teachers_are_averaged_by_their_shares(shares):
    """`sum_k w_k T^2 KL(p_k || q) / sum_k w_k`, by numpy in float64."""
    t, r = 3.0, np.random.RandomState(0)
    student, *logits = 2 * r.randn(3, 6, CLASSES)

    def softmax(z):
        e = np.exp(z / t)
        return e / e.sum(1, keepdims=True)

    kl = [(softmax(z) * np.log(softmax(z) / softmax(student))).sum(1) for z in logits]
    expected = np.average(kl, axis=0, weights=[1.0 if w is None else w for w in shares]) * t**2
    with jax.enable_x64(True):
        teachers = tuple(Outputs(jnp.asarray(z), share=w) for z, w in zip(logits, shares))
        net, method = Outputs(jnp.asarray(student)), Logits(temperature=t)
        found = method(net, teachers, {}, {}, make_now()).per_example
        np.testing.assert_allclose(found, expected, rtol=1e-9)  # series inside, to 5e-11


def test_a_share_of_nothing_leaves_a_teacher_out():
    method = Hidden(pairs=(("stem", "stem"), ("features", "features")))
    params, student, (a, b), made, now = setting(method)
    alone = method(student, (a,), made, params, now).per_example
    both = (a.replace(share=1.0), b.replace(share=0.0))
    close(method(student, both, made, params, now).per_example, alone)


def test_logits_finite_where_logits_are_huge():
    student, teacher = (Outputs(1e4 * outputs(5, s).logits) for s in (0, 1))
    (loss, _), (_, grads) = run(
        Logits(temperature=1.0), {}, student, (teacher,), batch(), make_now()
    )
    assert np.isfinite(loss) and np.isfinite(grads.logits).all()


def test_logits_wants_a_teacher_of_the_same_classes():
    student = outputs(5, 0)
    with pytest.raises(ValueError, match="needs a teacher"):
        Logits().check(make_spec(student, ()))
    other = Outputs(jnp.zeros((6, CLASSES + 1)))
    with pytest.raises(ValueError, match="tells 4 classes apart, the student 3"):
        Logits().check(make_spec(student, (other,)))


def test_hidden_counts_no_padded_token():
    method = Hidden(pairs=(("block00/out", "block00/out"), ("features", "features")))
    params, student, teachers, made, now = setting(method)
    both = student.mask * teachers[0].mask
    shared = tuple(t.replace(mask=student.mask) for t in teachers)

    def spoil(net):
        tap = net.taps["block00/out"]
        spoilt = jnp.where(student.mask[:, :, None] > 0, tap, 1e3)
        return net.replace(taps=net.taps | {"block00/out": spoilt})

    clean = method(student, shared, made, params, now).per_example
    spoilt = method(spoil(student), tuple(map(spoil, shared)), made, params, now)
    close(spoilt.per_example, clean)
    # By hand, for one teacher; rows of padding have no loss.
    ((met, _),) = meet(method.pairs[:1], student, teachers, made)
    kept, both = np.asarray(met.ours) ** 2, np.asarray(student.mask * teachers[0].mask)
    by_hand = [kept[i][both[i] > 0].mean() if both[i].any() else 0.0 for i in range(6)]
    close(met.mean(jnp.mean(met.ours**2, axis=2)), jnp.asarray(by_hand, jnp.float32))


def test_hidden_is_zero_where_the_projection_is_exact():
    student, teacher = outputs(5, 0), outputs(5, 0)
    method = Hidden(pairs=(("stem", "stem"),))
    params, _ = method.init(make_spec(student, (teacher,)), jax.random.key(0))
    assert list(params) == ["stem_to_stem_teacher0"]
    exact = {"stem_to_stem_teacher0": {"kernel": jnp.eye(5), "bias": jnp.zeros(5)}}
    assert (method(student, (teacher,), batch(), exact, make_now()).per_example == 0).all()


def test_hidden_taps_are_whole_names():
    method = registry.build(
        "distill", {"name": "hidden", "pairs": [["block00/out", "stem"], ["features", "stem"]]}
    )
    assert method.pairs == (("block00/out", "stem"), ("features", "stem"))
    hash(jax.tree.structure(method))
    assert (method.student_taps, method.teacher_taps) == ("block00/out|features", "stem|stem")


def test_hidden_names_what_does_not_fit():
    student, teacher = outputs(5, 0), outputs(7, 1)
    with pytest.raises(registry.UnknownName, match="intermediate of the student: 'block01/out'"):
        Hidden(pairs=(("block01/out", "stem"),)).check(make_spec(student, (teacher,)))
    with pytest.raises(ValueError, match=r"'block00/out' \[B, 4, 5\].*'stem' \[B, 2, 2, 7\]"):
        Hidden(pairs=(("block00/out", "stem"),)).check(make_spec(student, (teacher,)))
    with pytest.raises(ValueError, match="0 teachers"):
        Hidden().check(make_spec(student, ()))
    with pytest.raises(ValueError, match=r"pairs = \(\)"):
        Hidden(pairs=()).check(make_spec(student, (teacher,)))
