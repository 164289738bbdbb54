"""What every distillation method must keep, whoever wrote it. `plugin` is the method's config."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairkd_jax import losses, registry
from fairkd_jax.distill.base import Distiller
from fairkd_jax.testing import tiny_step
from fairkd_jax.types import Now, Outputs, Spec

CLASSES, ATTRIBUTES, TOKENS, HEADS, EXAMPLES = 3, 2, 4, 2, 20


@pytest.fixture
def method(plugin):
    return registry.build("distill", plugin)


def inside(width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of intermediates by example, of a transformer with two blocks."""
    block = {f"attn_{part}": (TOKENS, HEADS, width) for part in ("query", "key", "value")}
    block |= {"attn_scores": (HEADS, TOKENS, TOKENS), "out": (TOKENS, width)}
    blocks = {f"block0{i}/{name}": shape for i in range(2) for name, shape in block.items()}
    return {"embed": (TOKENS, width)} | blocks


def outputs(width: int, seed: int, rows: int = 6, more: str = "", name: str = "") -> Outputs:
    """Of a net with an inside; `more`: regular expression of the intermediates that are read."""
    r = np.random.RandomState(seed)

    def draw(*shape):
        return jnp.asarray(r.randn(rows, *shape), jnp.float32)

    features = draw(width)
    taps = {"features": features, "block00/out": draw(TOKENS, width), "stem": draw(2, 2, width)}
    own = [tap for tap in more.split("|") if re.fullmatch(r"[\w/]+", tap)]  # whole names
    there = dict.fromkeys(own, (TOKENS, width)) | inside(width)
    there = {tap: shape for tap, shape in there.items() if re.fullmatch(more, tap)}
    taps |= {tap: draw(*shape) for tap, shape in there.items() if tap not in taps}
    mask = jnp.asarray(np.arange(TOKENS) < r.randint(1, TOKENS + 1, (rows, 1)), jnp.float32)
    return Outputs(draw(CLASSES), features, taps, mask, name=name)


def batch(rows: int = 6, method: Distiller = Distiller()) -> dict:
    """What training shows a method: its tables, no attributes that it may not see."""
    label, attribute = jnp.arange(rows) % CLASSES, jnp.arange(rows) // CLASSES % ATTRIBUTES
    group = label * ATTRIBUTES + attribute
    made = {"label": label, "attribute": attribute, "group": group}
    return tiny_step.shown_to(method, made | {"real": jnp.ones(rows), "id": jnp.arange(rows)})


def make_spec(student: Outputs, teachers: tuple[Outputs, ...]) -> Spec:
    counts = jnp.ones(6), jnp.ones(3)
    return Spec(*counts, student, teachers, num_classes=CLASSES, num_examples=EXAMPLES)


def make_now(memory=None, step: int = 0, steps: float = 100.0) -> Now:
    """What training tells a method in a step."""
    counts = jnp.ones(6), jnp.ones(3)
    steps, step = jnp.asarray(steps, jnp.float32), jnp.asarray(step, jnp.int32)
    return Now(steps, *counts, step, {} if memory is None else memory)


def step(method, params, student, teachers, batch, now):
    """((mean loss, (per example, memory)), gradients by parameters and student)."""

    def loss(params, student):
        kd = method(student, teachers, batch, params, now)
        value = losses.masked_mean(kd.per_example, batch["real"]) + kd.penalty
        return value, (kd.per_example, kd.memory)

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, student)


@functools.partial(jax.jit, static_argnums=0)
def _run(kind: type, method, *rest):
    return step(method, *rest)


def run(method, *rest):
    """`step`, compiled; by the type too, for JAX takes alike methods for one (`step.Methods`)."""
    return _run(type(method), method, *rest)


def close(a, b, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=atol)


def setting(method, seed=0, rows=6):
    student = outputs(5, seed, rows, method.student_taps)
    widths = (7, 8)
    names = ("biased", "other")
    teachers = tuple(
        outputs(w, seed + w, rows, method.teacher_taps, name) for w, name in zip(widths, names)
    )
    params, memory = method.init(make_spec(student, teachers), jax.random.key(seed))
    return params, student, teachers, batch(rows, method), make_now(memory)


def other_numbers(method):
    return jax.tree.map(lambda v: v * 0.9 if isinstance(v, float) else v + 1, method)


def test_numbers_are_leaves_and_choices_hash(method, plugin):
    traced = [f for f in dataclasses.fields(method) if f.metadata.get("pytree_node", True)]
    for f in dataclasses.fields(method):
        if isinstance(f.default, float):
            assert f in traced, f"{f.name} is a number: leave it a leaf"
    assert len(jax.tree.leaves(method)) == len(traced)
    again = registry.build("distill", registry.defaults("distill", plugin["name"]) | plugin)
    assert hash(jax.tree.structure(method)) == hash(jax.tree.structure(again))
    assert method.reads in ("nothing", "logits", "inside")
    assert bool(method.teacher_taps) <= (method.reads == "inside")


def test_losses_are_finite_by_example_and_stop_at_the_teachers(method):
    params, student, teachers, made, now = setting(method)
    method.check(make_spec(student, teachers))
    (loss, (per_example, memory)), grads = run(method, params, student, teachers, made, now)
    assert per_example.shape == (6,) and per_example.dtype == jnp.float32
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((loss, grads, memory)))
    assert jax.tree.structure(memory) == jax.tree.structure(now.memory)
    for new, old in zip(jax.tree.leaves(memory), jax.tree.leaves(now.memory)):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)

    def by_teacher(teachers):
        kd = method(student, teachers, made, params, now)
        return jnp.sum(kd.per_example) + kd.penalty

    back = jax.jit(jax.grad(by_teacher))(teachers)
    assert all(np.all(g == 0) for g in jax.tree.leaves(back))
    if method.reads != "nothing":
        assert any(np.any(g != 0) for g in jax.tree.leaves(grads[1]))


def test_extreme_logits_leave_everything_finite(method):
    params, student, teachers, made, now = setting(method)
    student, *teachers = (x.replace(logits=x.logits * 1e4) for x in (student, *teachers))
    for x in jax.tree.leaves(run(method, params, student, tuple(teachers), made, now)):
        assert np.isfinite(x).all()


def _types(tree):
    return jax.tree.map(lambda x: x.dtype, tree)


def test_nets_that_compute_in_bfloat16_get_float32_losses(method):
    def half(outputs):
        return outputs.replace(taps={k: x.astype(jnp.bfloat16) for k, x in outputs.taps.items()})

    params, student, teachers, made, now = setting(method)
    nets = half(student), tuple(map(half, teachers))
    (loss, (per_example, memory)), _ = jax.eval_shape(step, method, params, *nets, made, now)
    assert {loss.dtype, per_example.dtype} == {jnp.dtype("float32")}
    assert _types(memory) == _types(now.memory)


def test_what_learns_nothing_itself_is_0_where_the_teachers_are_the_student(method):
    params, student, teachers, made, now = setting(method)
    if params or method.reads == "nothing":
        return
    same = tuple(student.replace(name=x.name) for x in teachers)
    (loss, (per_example, _)), (_, grads) = run(method, params, student, same, made, now)
    # exactly; but features are normalised by what is compiled otherwise for student and teacher,
    # and an epsilon of DIST's authors moves a correlation of 1 over few examples
    of_loss, of_gradient = (1e-12, 1e-7) if method.reads == "inside" else (0, 0)
    if method.reads == "logits" and method.couples_examples:
        of_loss, of_gradient = 1e-4, 1e-3
    for x in (loss, per_example):
        np.testing.assert_allclose(x, 0, atol=of_loss)
    for x in jax.tree.leaves(grads):
        np.testing.assert_allclose(x, 0, atol=of_gradient)


def test_a_method_reads_only_what_it_says(method):
    params, student, teachers, made, now = setting(method)
    if method.reads == "inside":
        teachers = tuple(t.replace(logits=jnp.full_like(t.logits, jnp.nan)) for t in teachers)
    elif method.reads == "logits":
        teachers = tuple(Outputs(t.logits) for t in teachers)
    else:
        teachers = ()
    assert np.isfinite(run(method, params, student, teachers, made, now)[0][0])


def test_padding_rows_change_nothing(method):
    params, student, teachers, made, now = setting(method)

    def grow(tree):
        def extend(x):
            return jnp.concatenate([jnp.full_like(x[:2], 1000), x, jnp.full_like(x[:1], -1000)])

        return jax.tree.map(extend, tree)

    padded = grow(made) | {
        "label": jnp.pad(made["label"], (2, 1)),
        "real": jnp.pad(made["real"], (2, 1)),
    }
    (loss, (by, memory)), (own, grads) = run(method, params, student, teachers, made, now)
    grown = run(method, params, *grow((student, teachers)), padded, now)
    (loss2, (by2, memory2)), (own2, grads2) = grown
    grads2 = jax.tree.map(lambda x: x[2:-1], grads2)
    close((loss, by, memory, own, grads), (loss2, by2[2:-1], memory2, own2, grads2))


def test_examples_meet_only_where_the_method_says_so(method):
    params, student, teachers, made, now = setting(method)
    first = lambda tree: jax.tree.map(lambda x: x[:4], tree)  # noqa: E731
    (loss, (whole, _)), _ = run(method, params, student, teachers, made, now)
    of_few = run(method, params, *map(first, (student, teachers, made)), now)
    (loss_of_few, (few, _)), _ = of_few
    found, alone = (whole[:4], loss - jnp.mean(whole)), (few, loss_of_few - jnp.mean(few))
    if not method.couples_examples:
        close(found, alone)
        return
    same = [np.allclose(a, b, rtol=1e-4) for a, b in zip(found, alone)]
    assert not all(same), "no two examples meet: leave couples_examples at False"


def test_stages_write_the_tables_that_are_read(method):
    """And are the same each time."""
    stage, again = (method.stages(tiny_step.base()) for _ in range(2))
    assert stage.kind == "train" and stage.identity == again.identity
    assert {k for k, v in stage.inputs.items() if v.kind == "table"} == set(method.tables)
    method.check_tables(jax.tree.map(np.asarray, tiny_step.tables_of(method, rows=16)))


def test_other_numbers_are_no_new_trace(method):
    traces = []

    def counted(*args):
        traces.append(1)
        return step(*args)

    once = jax.jit(counted)
    *rest, now = setting(method)
    for m, k in ((method, 0), (other_numbers(method), 1)):
        once(m, *rest, now.replace(step=now.step + k, steps=now.steps + k))
    assert len(traces) == 1


def test_lanes_give_what_each_run_gives_alone(method):
    lanes = [(m, *setting(m, seed)) for seed, m in enumerate((method, other_numbers(method)))]
    lanes = [(*rest, now.replace(step=now.step + k)) for k, (*rest, now) in enumerate(lanes)]
    stacked = jax.tree.map(lambda *v: jnp.stack([jnp.asarray(x) for x in v]), *lanes)
    together = jax.jit(jax.vmap(step))(*stacked)
    for i, lane in enumerate(lanes):
        close(jax.tree.map(lambda x, i=i: x[i], together), run(*lane))
