"""One step: everything composes, compiles once, does not depend on devices, lanes or padding."""

import itertools
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import synthetic as s

from fairkd_jax import registry, sharding
from fairkd_jax.config import Mix
from fairkd_jax.debias.erm import ERM
from fairkd_jax.distill.logits import Logits
from fairkd_jax.train import step as step_module
from fairkd_jax.train.methods import shown_to
from fairkd_jax.train.passes import trained_nets
from fairkd_jax.train.step import Methods, compile_step, fresh_state, train_step

TABLE, KEY = "teacher_logits", jax.random.key(9)
ONE = sharding.make_mesh(devices=jax.devices()[:1])
EIGHT = sharding.make_mesh()


def distillers(names):
    return tuple(registry.build("distill", {"name": name}) for name in names if name != "none")


def refused(program, methods):
    """What `check` says of the debiasing method, and of each distiller; None: it takes part."""
    spec = step_module.make_spec(program, methods, s.NOW, s.batch())
    told = []
    for method in methods.all:
        try:
            told.append(method.check(shown_to(method, spec)))
        except ValueError as error:
            told.append(str(error))
    return told


def setup(debias, distill, family, scope="total", teacher_family=None):
    """(program, methods, teachers) of a student under the teacher that its distillers need.

    Of several distillers those that take part; one alone, and the debiasing method, must. Raises
    ValueError for those that `check` refuses.
    """
    names = (distill,) if isinstance(distill, str) else distill
    made = s.methods(registry.build("debias", {"name": debias}), distillers(names), scope)
    net, teacher = s.small_net(family), s.small_net(teacher_family or family)
    reads = {d.reads for d in made.distill} - {"nothing"}
    live = "inside" in reads or made.debias.changes_inputs or teacher_family is not None
    teachers = {"teacher": teacher.init(KEY)} if reads and live else {}
    named = (("teacher", teacher if live else None),) if reads else ()
    program = s.program(net, named)
    by_debias, *by_distillers = refused(program, made)
    for told in (by_debias, *(by_distillers if isinstance(distill, str) else ())):
        if told:
            raise ValueError(told)
    fit = tuple(d for d, told in zip(made.distill, by_distillers) if not told)
    return program, made.replace(distill=fit), teachers


def start(program, methods, batch, mesh=ONE, seed=0):
    return fresh_state(program, mesh, methods, s.numbers(), s.NOW, batch, np.uint32(seed))


def rollout(program, methods, teachers, steps=2, mesh=ONE, seed=0, rows=16):
    """(state, losses) after a few steps on different batches."""
    run, losses = compile_step(program, mesh), []
    state = start(program, methods, sharding.put_batch(s.batch(rows), mesh), mesh, seed)
    for i in range(steps):
        batch = sharding.put_batch(s.batch(rows, seed=i), mesh)
        state, metrics = run(state, methods, s.numbers(), s.NOW, batch, teachers, np.uint32(seed))
        losses.append(float(metrics["loss"]))
    return state, losses


ROOMS = [registry.available(room) for room in ("debias", "distill", "models")]


# One for each thing that a step does for a method: memory, another net, parameters, other inputs,
# a table, edits inside, more passes; and for a distiller: parameters, memory, a head, several.
STEPPED = {"erm", "group_dro", "lff", "dann", "mixup", "jtt", "read", "hypothesis_adversary"}
STEPPED |= {"vid", "crd", "simkd", "agre_kd", "minilm_v2"}


def combinations():
    """Each name with one in turn, in the first family that takes both; slow: the rest, and all.

    By default those of STEPPED; the others are traced below, and compiled by the contract tests.
    """
    for i in range(max(map(len, ROOMS))):
        debias, distill, _ = (room[i % len(room)] for room in ROOMS)
        marks = [pytest.mark.slow] * (not {debias, distill} & STEPPED)
        yield pytest.param(debias, distill, in_turn(i), id=f"{debias}-{distill}", marks=marks)
    for debias, distill, family in itertools.product(*ROOMS):
        name = f"{debias}-{distill}-{family}"
        yield pytest.param(debias, distill, (family,), id=name, marks=pytest.mark.slow)


def in_turn(i):
    families = ROOMS[2]
    first = i % len(families)
    return (*families[first:], *families[:first])


@pytest.mark.parametrize("debias, distill, families", [*combinations()])
def test_any_method_with_any_distillation_and_any_model(debias, distill, families):
    for family in families:
        try:
            made = setup(debias, distill, family)
        except ValueError as error:
            reason = error
        else:
            return _learns(*made)
    pytest.skip(f"refused: {reason}")


@pytest.mark.parametrize("debias", ROOMS[0])
def test_each_pair_of_methods_and_models_composes(debias):
    """Traced, not compiled: every distillation at once, then every family, under a method."""
    distill, composed = ROOMS[1], 0
    for family in in_turn(ROOMS[0].index(debias)):
        try:
            program, methods, teachers = setup(debias, distill, family)
        except ValueError:
            continue
        given = (methods, s.numbers(), s.NOW, s.batch())
        nets = trained_nets(program.student, methods.debias).items()
        nets, seed = {name: net.variable_shapes() for name, net in nets}, np.uint32(0)
        state = jax.eval_shape(partial(step_module.init_state, program), *given, nets, seed)
        after, metrics = jax.eval_shape(partial(train_step, program), state, *given, teachers, seed)
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, after)
        assert all(v.shape == () for v in metrics.values())
        distill, composed = ("logits", "none"), composed + 1
    assert composed, "every family is refused"


SIGHTED = {f: "height" in s.FACTS[s.small_net(f).view] for f in registry.available("models")}


@pytest.mark.parametrize(
    "teacher, student",
    [p for p in itertools.permutations(SIGHTED, 2) if SIGHTED[p[0]] == SIGHTED[p[1]]],
)
def test_a_teacher_of_another_family(teacher, student):
    program, methods, teachers = setup("group_dro", "logits", student, teacher_family=teacher)
    assert type(program.student.architecture) is not type(program.teachers[0][1].architecture)
    _learns(program, methods, teachers)


def _learns(program, methods, teachers):
    methods = methods.replace(label_smoothing=np.float32(0.1))
    before = start(program, methods, s.batch())
    state, losses = rollout(program, methods, teachers)
    assert int(state.step) == 2 and np.isfinite(losses).all()
    moved = jax.tree.map(
        lambda a, b: bool(jnp.any(a != b)), before.params["nets"], state.params["nets"]
    )
    heads = [net["head"] for net in moved.values()]
    assert all(jax.tree.leaves(heads)), "a net did not learn"
    assert jax.tree.structure(before) == jax.tree.structure(state)


# One for each thing that a step does for a method; the contract tests have lanes of all methods.
LANES = ("erm", "group_dro", "lff", "dann", "mixup")


@pytest.mark.parametrize(
    "debias", [pytest.param(d, marks=[pytest.mark.slow] * (d not in LANES)) for d in ROOMS[0]]
)
def test_two_lanes_give_what_two_runs_give(debias):
    program, methods, _ = setup(debias, "logits", "bert", scope="task")
    live = methods.debias.changes_inputs
    teachers = {"teacher": program.student.init(KEY)} if live else {}
    lanes = [jax.tree.map(lambda x, k=k: x * (1 + k / 10), methods) for k in range(2)]
    seeds, batches = np.arange(2, dtype=np.uint32), [s.batch(seed=k) for k in range(2)]
    states = [start(program, m, b, seed=int(k)) for m, b, k in zip(lanes, batches, seeds)]

    def stack(*trees):
        return jax.tree.map(lambda *xs: jnp.stack([jnp.asarray(x) for x in xs]), *trees)

    def run(state, methods, batch, seed):
        now = jax.tree.map(jnp.asarray, s.NOW)
        return train_step(program, state, methods, s.numbers(), now, batch, teachers, seed)

    together = jax.jit(jax.vmap(run))(stack(*states), stack(*lanes), stack(*batches), seeds)
    run = jax.jit(run)
    alone = [run(*lane) for lane in zip(states, lanes, batches, seeds)]
    # Adam divides by the root of a second moment, which magnifies rounding where it is near 0.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), together, stack(*alone)
    )


def test_no_two_methods_are_one_tree():
    """What is compiled for one must not be found for another."""
    debias, distill = (
        [registry.build(room, {"name": name}) for name in registry.available(room)]
        for room in ("debias", "distill")
    )
    trees = [jax.tree.structure(Methods(m, ())) for m in debias]
    trees += [jax.tree.structure(Methods(debias[0], (d,))) for d in distill]
    assert not [(a, b) for i, a in enumerate(trees) for b in trees[:i] if a == b]


@pytest.mark.parametrize("debias", ["erm", "group_dro", "irm", "lff", "dann"])
def test_eight_devices_give_the_losses_of_one(debias):
    program, methods, teachers = setup(debias, "logits", "bert")
    _, one = rollout(program, methods, teachers, steps=4)
    _, eight = rollout(program, methods, teachers, steps=4, mesh=EIGHT)
    # float32 sums in another order, then amplified by four steps of Adam
    np.testing.assert_allclose(one, eight, rtol=1e-5)


def test_a_missing_group_and_uneven_padding_on_eight_devices():
    program, methods, teachers = setup("group_dro", "logits", "bert")

    def run(mesh):
        batch = s.batch(16)
        batch["group"] = jnp.where(batch["group"] == 1, 0, batch["group"])
        batch["real"] = batch["real"].at[-5:].set(0)
        put = sharding.put_batch(batch, mesh)
        state = start(program, methods, put, mesh)
        one = compile_step(program, mesh)
        for _ in range(3):
            state, metrics = one(state, methods, s.numbers(), s.NOW, put, teachers, np.uint32(0))
        return float(metrics["loss"]), np.asarray(state.memory["debias"]["q"])

    for a, b in zip(run(ONE), run(EIGHT)):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_large_parameters_are_split_over_fsdp(monkeypatch):
    monkeypatch.setattr(sharding, "SMALLEST", 64)
    mesh = sharding.make_mesh(fsdp=4)
    program, methods, teachers = setup("group_dro", "logits", "bert")
    _, one = rollout(program, methods, teachers)
    step_module.compile_step.cache_clear()
    state, split = rollout(program, methods, teachers, mesh=mesh)
    shards = {
        x.sharding.spec for x in jax.tree.leaves(state.params) if not x.sharding.is_fully_replicated
    }
    assert shards, "nothing was split"
    step_module.compile_step.cache_clear()
    np.testing.assert_allclose(one, split, rtol=1e-5)


def test_one_trace_for_all_seeds_and_numbers(monkeypatch):
    traces = []
    original = step_module.train_step
    monkeypatch.setattr(step_module, "train_step", lambda *a: traces.append(1) or original(*a))
    step_module.compile_step.cache_clear()
    program, _, _ = setup("group_dro", "logits", "bert")
    for seed, (temperature, step_size) in enumerate([(1.0, 0.01), (4.0, 0.1), (8.0, 0.5)]):
        debias = registry.build("debias", {"name": "group_dro", "step_size": step_size})
        made = s.methods(debias, (Logits(temperature=temperature),))
        rollout(program, made, {}, seed=seed)
    step_module.compile_step.cache_clear()
    assert len(traces) == 1


def test_padding_rows_change_nothing():
    program, methods, _ = setup("erm", "logits", "bert")

    def loss(batch):
        state = start(program, methods, batch)
        quiet = s.program(program.student, program.teachers, deterministic=True)
        args = (state, methods, s.numbers(), s.NOW, batch, {}, np.uint32(0))
        return compile_step(quiet, ONE)(*args)

    whole = s.batch(16)
    padded = jax.tree.map(lambda x: jnp.concatenate([x, x[:4]]), whole)
    padded["real"] = padded["real"].at[-4:].set(0)
    (_, m), (_, n) = loss(whole), loss(padded)
    np.testing.assert_allclose(m["loss"], n["loss"], rtol=1e-6)
    np.testing.assert_allclose(m["gradient_norm"], n["gradient_norm"], rtol=1e-5)


def test_accumulated_micro_batches_give_the_gradient_of_the_batch():
    program, methods, _ = setup("erm", "logits", "bert")
    metrics = []
    for k in (1, 4):
        accumulating = s.program(
            program.student, program.teachers, accumulate=k, deterministic=True
        )
        state = start(accumulating, methods, s.batch())
        args = (state, methods, s.numbers(), s.NOW, s.batch(), {}, np.uint32(0))
        metrics.append(compile_step(accumulating, ONE)(*args)[1])
    for name in ("loss", "task_loss", "distill_loss", "gradient_norm"):
        np.testing.assert_allclose(metrics[0][name], metrics[1][name], rtol=1e-5, err_msg=name)


def test_kd_weight_zero_is_no_distillation():
    student = s.small_net("bert")
    with_teacher = s.program(student, (("teacher", None),))
    off = s.methods(ERM(), (Logits(),)).replace(kd_weight=np.float32(0))
    _, a = rollout(with_teacher, off, {})
    _, b = rollout(s.program(student), s.methods(ERM()), {})
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_teachers_table_gives_what_the_live_teacher_gives():
    student, teacher = s.small_net("bert"), s.small_net("resnet")
    variables = teacher.init(jax.random.key(3))
    methods = s.methods(ERM(), (Logits(),))
    batch = s.batch()
    answers, _ = teacher.apply(variables, batch, train=False)
    batch["tables"]["teacher_logits"]["logits"] = answers.logits
    losses = []
    for named, live in (
        ((("teacher", teacher),), {"teacher": variables}),
        ((("teacher", None),), {}),
    ):
        program = s.program(student, named)
        state = start(program, methods, batch)
        args = (methods, s.numbers(), s.NOW, batch, live, np.uint32(0))
        losses.append(compile_step(program, ONE)(state, *args)[1]["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_weights_of_teachers_are_traced_and_their_losses_averaged():
    student, batch = s.small_net("bert"), s.batch()
    for name in "ab":
        answers = np.random.RandomState(ord(name)).randn(*batch["tables"][TABLE]["logits"].shape)
        batch["tables"][f"teacher.{name}_logits"] = {"logits": answers.astype(np.float32)}
    program = s.program(student, (("teacher.a", None), ("teacher.b", None)))
    run = compile_step(program, ONE)
    found = []
    for weights in ({"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}, {"a": 2.0, "b": 1.0}):
        shares = step_module.teachers_of(Mix(teachers=weights))
        methods = s.methods(ERM(), (Logits(),)).replace(shares=jax.tree.map(np.float32, shares))
        state = start(program, methods, batch)
        metrics = run(state, methods, s.numbers(), s.NOW, batch, {}, np.uint32(0))[1]
        found.append(float(metrics["distill_loss"]))
    assert run._cache_size() == 1
    np.testing.assert_allclose(found[2], (2 * found[0] + found[1]) / 3, rtol=1e-5)
    assert abs(found[0] - found[1]) > 0.01


def test_the_state_is_donated():
    program, methods, _ = setup("erm", "none", "bert")
    state = start(program, methods, s.batch())
    compile_step(program, ONE)(state, methods, s.numbers(), s.NOW, s.batch(), {}, np.uint32(0))
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
