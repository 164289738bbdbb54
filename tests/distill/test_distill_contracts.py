"""What every distillation method must keep, and where its answer is known without a reference."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairkd_jax import losses, registry
from fairkd_jax.distill.hidden import Hidden, mean_square
from fairkd_jax.distill.logits import Logits
from fairkd_jax.types import Outputs, Spec

CLASSES, TOKENS = 3, 4
METHODS = registry.available("distill")


@pytest.fixture(params=METHODS)
def method(request):
    return registry.build("distill", {"name": request.param})


def outputs(width: int, seed: int, rows: int = 6) -> Outputs:
    r = np.random.RandomState(seed)

    def draw(*shape):
        return jnp.asarray(r.randn(rows, *shape), jnp.float32)

    features = draw(width)
    taps = {"features": features, "block00/out": draw(TOKENS, width), "stem": draw(2, 2, width)}
    mask = jnp.asarray(np.arange(TOKENS) < r.randint(1, TOKENS + 1, (rows, 1)), jnp.float32)
    return Outputs(draw(CLASSES), features, taps, mask)


def batch(rows: int = 6) -> dict:
    return {"label": jnp.arange(rows) % CLASSES, "real": jnp.ones(rows), "id": jnp.arange(rows)}


def make_spec(student: Outputs, teachers: tuple[Outputs, ...]) -> Spec:
    return Spec(jnp.ones(6), jnp.ones(3), student, teachers, num_classes=CLASSES)


def step(method, params, student, teachers, batch):
    """((mean loss, per example), gradients by parameters and student)."""

    def loss(params, student):
        kd = method(student, teachers, batch, params)
        return losses.masked_mean(kd.per_example, batch["real"]) + kd.penalty, kd.per_example

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, student)


run = jax.jit(step)


def close(a, b, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=atol)


def setting(method, seed=0, rows=6):
    student, teachers = (
        outputs(5, seed, rows),
        (outputs(7, seed + 1, rows), outputs(8, seed + 2, rows)),
    )
    params = method.init(make_spec(student, teachers), jax.random.key(seed))
    return params, student, teachers, batch(rows)


def other_numbers(method):
    return jax.tree.map(lambda v: v * 0.9 if isinstance(v, float) else v + 1, method)


def test_numbers_are_leaves_and_choices_hash(method):
    traced = [f for f in dataclasses.fields(method) if f.metadata.get("pytree_node", True)]
    for f in dataclasses.fields(method):
        if isinstance(f.default, float):
            assert f in traced, f"{f.name} is a number: leave it a leaf"
    assert len(jax.tree.leaves(method)) == len(traced)
    again = registry.build(
        "distill", registry.defaults("distill", type(method).__module__.split(".")[-1])
    )
    assert hash(jax.tree.structure(method)) == hash(jax.tree.structure(again))
    assert method.reads in ("nothing", "logits", "inside")
    assert bool(method.teacher_taps) <= (method.reads == "inside")


def test_losses_are_finite_by_example_and_stop_at_the_teachers(method):
    params, student, teachers, made = setting(method)
    method.check(make_spec(student, teachers))
    (loss, per_example), grads = run(method, params, student, teachers, made)
    assert per_example.shape == (6,) and per_example.dtype == jnp.float32
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((loss, grads)))
    by_teacher = jax.grad(lambda t: jnp.sum(method(student, t, made, params).per_example))
    back = jax.jit(by_teacher)(teachers)
    assert all(np.all(g == 0) for g in jax.tree.leaves(back))
    if method.reads != "nothing":
        assert any(np.any(g != 0) for g in jax.tree.leaves(grads[1]))


def test_a_method_reads_only_what_it_says(method):
    params, student, teachers, made = setting(method)
    if method.reads == "inside":
        teachers = tuple(t.replace(logits=jnp.full_like(t.logits, jnp.nan)) for t in teachers)
    elif method.reads == "logits":
        teachers = tuple(Outputs(t.logits) for t in teachers)
    else:
        teachers = ()
    assert np.isfinite(run(method, params, student, teachers, made)[0][0])


def test_padding_rows_change_nothing(method):
    params, student, teachers, made = setting(method)

    def grow(tree):
        def extend(x):
            return jnp.concatenate([jnp.full_like(x[:2], 1000), x, jnp.full_like(x[:1], -1000)])

        return jax.tree.map(extend, tree)

    padded = grow(made) | {
        "label": jnp.pad(made["label"], (2, 1)),
        "real": jnp.pad(made["real"], (2, 1)),
    }
    (loss, by), (own, grads) = run(method, params, student, teachers, made)
    (loss2, by2), (own2, grads2) = run(method, params, *grow((student, teachers)), padded)
    close((loss, by, own, grads), (loss2, by2[2:-1], own2, jax.tree.map(lambda x: x[2:-1], grads2)))


def test_examples_do_not_meet(method):
    params, student, teachers, made = setting(method)
    first = lambda tree: jax.tree.map(lambda x: x[:2], tree)  # noqa: E731
    whole = method(student, teachers, made, params).per_example
    close(whole[:2], method(first(student), first(teachers), first(made), params).per_example)


def test_other_numbers_are_no_new_trace(method):
    traces = []

    def counted(*args):
        traces.append(1)
        return step(*args)

    once = jax.jit(counted)
    for m in (method, other_numbers(method)):
        once(m, *setting(method))
    assert len(traces) == 1


def test_lanes_give_what_each_run_gives_alone(method):
    lanes = [(m, *setting(m, seed)) for seed, m in enumerate((method, other_numbers(method)))]
    stacked = jax.tree.map(lambda *v: jnp.stack([jnp.asarray(x) for x in v]), *lanes)
    together = jax.jit(jax.vmap(step))(*stacked)
    for i, lane in enumerate(lanes):
        close(jax.tree.map(lambda x, i=i: x[i], together), run(*lane))


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_identical_nets_have_nothing_to_teach(temperature):
    """Exactly, op by op; a compiler may round the two sides apart, by 1e-7 before the `T^2`."""
    method, net = Logits(temperature=temperature), outputs(5, 0)
    assert (method(net, (net,), batch(), {}).per_example == 0).all()
    (loss, _), (_, grads) = run(method, {}, net, (net,), batch())
    np.testing.assert_allclose(loss, 0, atol=1e-7 * temperature**2)
    np.testing.assert_allclose(grads.logits, 0, atol=1e-6)


def test_the_limit_of_high_temperature_is_centred_squared_error():
    """`T^2 KL -> |c(zs) - c(zt)|^2 / 2C`; float64, for T^2 amplifies rounding."""
    with jax.enable_x64(True):
        r = np.random.RandomState(0)
        zs, zt = jnp.asarray(r.randn(8, 5)), jnp.asarray(2 * r.randn(8, 5))
        kd = Logits(temperature=1e4)(Outputs(zs), (Outputs(zt),), {}, {}).per_example
        gap = (zs - zs.mean(1, keepdims=True)) - (zt - zt.mean(1, keepdims=True))
        np.testing.assert_allclose(kd, (gap**2).sum(1) / 10, rtol=1e-3)


def test_losses_of_several_teachers_are_averaged():
    _, student, (a, b), made = setting(Logits())
    method = Logits(temperature=3.0)
    one = [method(student, (t,), made, {}).per_example for t in (a, b)]
    close(method(student, (a, b), made, {}).per_example, (one[0] + one[1]) / 2)


def test_logits_finite_where_logits_are_huge():
    student, teacher = (Outputs(1e4 * outputs(5, s).logits) for s in (0, 1))
    (loss, _), (_, grads) = run(Logits(temperature=1.0), {}, student, (teacher,), batch())
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
    params, student, teachers, made = setting(method)
    both = student.mask * teachers[0].mask
    shared = tuple(t.replace(mask=student.mask) for t in teachers)

    def spoil(net):
        tap = net.taps["block00/out"]
        spoilt = jnp.where(student.mask[:, :, None] > 0, tap, 1e3)
        return net.replace(taps=net.taps | {"block00/out": spoilt})

    clean = method(student, shared, made, params).per_example
    close(method(spoil(student), tuple(map(spoil, shared)), made, params).per_example, clean)
    # By hand, for one example and one teacher.
    difference = jnp.asarray(np.random.RandomState(0).randn(6, TOKENS, 3), jnp.float32)
    by_hand = [float((difference[i][np.asarray(both[i]) > 0] ** 2).mean()) for i in range(6)]
    close(mean_square(difference, both), jnp.asarray(by_hand))


def test_hidden_is_zero_where_the_projection_is_exact():
    student, teacher = outputs(5, 0), outputs(5, 0)
    method = Hidden(pairs=(("stem", "stem"),))
    params = method.init(make_spec(student, (teacher,)), jax.random.key(0))
    assert list(params) == ["stem_to_stem_teacher0"]
    exact = {"stem_to_stem_teacher0": {"kernel": jnp.eye(5), "bias": jnp.zeros(5)}}
    assert (method(student, (teacher,), batch(), exact).per_example == 0).all()


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
