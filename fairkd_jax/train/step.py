"""One training step: nets -> losses by example -> debiasing -> gradient -> optax.

`train_step` is the mathematics and nothing else; `compile_step` wraps it in one `jax.jit` that
donates the state. What changes between runs as a number is an argument; what changes as a choice is
in the static `Program` or in the tree structure of the methods. So runs share compiled programs.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from fairkd_jax import sharding
from fairkd_jax.config import Mix
from fairkd_jax.data.device import decoded
from fairkd_jax.losses import labelled, masked_mean
from fairkd_jax.models.net import Gather, Net
from fairkd_jax.train import optim, passes
from fairkd_jax.train.methods import Methods, shown_to
from fairkd_jax.train.passes import trained_nets
from fairkd_jax.types import Array, Batch, Now, Outputs, Spec, Terms, TrainState, with_numbers

# Programs that are kept compiled: more than a method of a study needs, fewer than fill a process.
PROGRAMS = 64


@dataclasses.dataclass(frozen=True)
class Program:
    """The static part of a step: hashable, compared by value."""

    student: Net
    rule: optim.Rule
    teachers: tuple[tuple[str, Net | None], ...] = ()  # (name, live net, or None: table of logits)
    num_attributes: int = 2
    num_examples: int = 0
    accumulate: int = 1
    deterministic: bool = False


def input_of(teacher: str) -> str:
    """What a teacher is called among a stage's inputs; "" is the one that needs no name."""
    return f"teacher.{teacher}".removesuffix(".")


def _called(name: str) -> str:
    return name.partition(".")[2]  # of an input


def teachers_of(mix: Mix) -> dict[str, float | None]:
    """The inputs of a stage that may be its teachers, each with its weight; None: it has none."""
    return {input_of(name): w for name, w in (mix.teachers or {"": None}).items()}


def table_of(teacher: str) -> str:
    """The name of the table that holds a teacher's logits."""
    return f"{teacher}_logits"


NETS, INIT, STEPS = range(3)


def net_key(seed: Array, number: Array | int) -> Array:
    """The key that trained net `number` starts from; the student is number 0."""
    return jax.random.fold_in(_stream(seed, NETS), number)


def _stream(seed: Array, which: int) -> Array:
    """A key for one of the three uses of randomness, so that none meets another's draws."""
    return jax.random.split(jax.random.key(seed), 3)[which]


def _taps(*patterns: str) -> str:
    return "|".join(f"(?:{p})" for p in patterns if p)


def _student_taps(methods: Methods) -> str:
    return _taps(methods.debias.taps, *[d.student_taps for d in methods.distill])


def _teacher_outputs(
    program: Program,
    methods: Methods,
    teachers: dict[str, Any],
    batch: Batch,
    edits: dict,
    gather: Gather | None,
) -> tuple[Outputs, ...]:
    """What the teachers say: live ones on the inputs the student sees, others from their table."""
    save = _taps(*[d.teacher_taps for d in methods.distill])
    outputs = []
    for name, net in program.teachers:
        if net is None:
            out = Outputs(logits=batch["tables"][table_of(name)]["logits"])
        else:
            how = {"save": save, "edits": edits, "gather": gather}
            out, _ = net.apply(teachers[name], batch, train=False, **how)
        outputs.append(out.replace(share=methods.shares.get(name), name=_called(name)))
    return jax.lax.stop_gradient(tuple(outputs))


def make_spec(program: Program, methods: Methods, now: Now, batch: Batch) -> Spec:
    """What methods may know when they make their parameters; counts may be traced or concrete."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    teacher_taps = _taps(*[d.teacher_taps for d in methods.distill])
    return Spec(
        group_counts=now.group_counts,
        label_counts=now.label_counts,
        student=program.student.shapes(shapes, _student_taps(methods)),
        inputs=dict(batch["views"][program.student.view]),
        teachers=tuple(
            net.shapes(shapes, teacher_taps).replace(name=_called(name))
            if net is not None
            else Outputs(shapes["tables"][table_of(name)]["logits"], name=_called(name))
            for name, net in program.teachers
        ),
        num_classes=program.student.num_classes,
        num_attributes=program.num_attributes,
        num_examples=program.num_examples,
    )


def init_params(
    methods: Methods, spec: Spec, nets: dict[str, Any], seed: Array
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(all that trains: the nets' parameters and the methods' own, what the methods remember)."""
    debias_key, distill_key = jax.random.split(_stream(seed, INIT), 2)
    own, memory = methods.debias.init(shown_to(methods.debias, spec), debias_key)
    distill = {
        str(i): d.init(shown_to(d, spec), jax.random.fold_in(distill_key, i))
        for i, d in enumerate(methods.distill)
    }
    params = {"debias": own, "distill": {i: made for i, (made, _) in distill.items()}}
    memories = {"debias": memory, "distill": {i: made for i, (_, made) in distill.items()}}
    return {"nets": nets, **params}, memories


def init_state(
    program: Program,
    methods: Methods,
    numbers: optim.Numbers,
    now: Now,
    batch: Batch,
    nets: dict[str, Any],
    seed: Array,
) -> TrainState:
    """A fresh state around the variables of the trained nets. `batch` gives shapes only."""
    methods = with_numbers(methods, lambda number: number.start)
    spec = make_spec(program, methods, now, batch)
    params, memory = init_params(methods, spec, {k: v["params"] for k, v in nets.items()}, seed)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats={name: v["stats"] for name, v in nets.items()},
        opt=optim.optimizer(program.rule, numbers).init(params),
        memory=memory,
    )
    if numbers.ema is None:
        return state
    return state.replace(average=optax.ema(numbers.ema).init(student_variables(state)))


def student_variables(state: TrainState) -> dict[str, Any]:
    """The student's parameters and statistics."""
    return {"params": state.params["nets"]["student"], "stats": state.stats["student"]}


def kept_variables(state: TrainState, numbers: optim.Numbers) -> dict[str, Any]:
    """What is kept of a trained state: the student's variables, or their average over steps.

    The average is `sum_s d^(t - s) x_s / sum_s d^(t - s)` over the steps s = 1 ... t: what the net
    started from is no part of it.
    """
    if numbers.ema is None or not int(jax.device_get(state.step)):
        return student_variables(state)
    average = state.average
    return jax.jit(optax.tree.bias_correction)(average.ema, numbers.ema, average.count)


def task_losses(
    methods: Methods, outputs: dict, batch: Batch, own: dict, now: Now
) -> tuple[Array, Array]:
    """The debiasing method's task loss, float32 [B], and with smoothed labels (arXiv 1512.00567).

    With e = `label_smoothing` and C labels the targets are 1 - e at the label and e / C at each.
    Cross-entropy is linear in them, so what is added is e times the mean of the loss over all
    labels, whatever else the method has in it.
    """
    task, share = methods.debias.task(outputs, batch, own, now), methods.label_smoothing
    if share is None:
        return task, task
    names = [k for k in ("label", "partner_label") if k in batch]

    def with_label(label: Array) -> Array:
        return methods.debias.task(
            outputs, batch | {k: jnp.full_like(batch[k], label) for k in names}, own, now
        )

    labels = jnp.arange(outputs["student"].logits.shape[1])
    return task, (1 - share) * task + share * jnp.mean(jax.vmap(with_label)(labels), axis=0)


def _loss(
    params: dict,
    program: Program,
    methods: Methods,
    stats: dict,
    now: Now,
    batch: Batch,
    teachers: dict[str, Any],
    key: Array,
    known: Array | float,
    gather: Gather | None,
) -> tuple[Array, tuple[dict, dict, dict]]:
    """(scalar, (statistics, memory, metrics)) of one micro-batch; `now` has all memory.

    `known` is the share of the step's examples whose label is known. To the debiasing method the
    others are padding: the task loss is a mean over those, and KD one over all, in either scope.
    """
    methods = with_numbers(methods, lambda number: number.at(now))
    ours = shown_to(methods.debias, now.replace(memory=now.memory["debias"]))
    mix_key, debias_key, *net_keys, pass_key = jax.random.split(key, 3 + len(params["nets"]))
    real, own = batch["real"], labelled(batch)
    shown = shown_to(methods.debias, batch | {"real": own})
    shown, edits = methods.debias.prepare(shown, ours, mix_key)
    batch = batch | shown | {"real": real}
    nets = params["nets"]
    if gather:
        params = params | {name: gather(params[name]) for name in ("debias", "distill")}
    outputs, new_stats = passes.run(
        program.student,
        methods.debias,
        {name: {"params": nets[name], "stats": stats[name]} for name in nets},
        shown,
        edits,
        ours,
        dict(zip(nets, net_keys)),
        pass_key,
        train=not program.deterministic,
        save=_student_taps(methods),
        gather=gather,
    )
    answers = _teacher_outputs(program, methods, teachers, batch, edits, gather)

    student = outputs["student"]
    plain, task = task_losses(methods, outputs, shown, params["debias"], ours)
    distill, penalty, metrics = jnp.zeros_like(task), jnp.zeros((), task.dtype), {}
    memory = {"distill": {}}
    for i, distiller in enumerate(methods.distill):
        its = shown_to(distiller, now.replace(memory=now.memory["distill"][str(i)]))
        seen = shown_to(distiller, batch)
        kd = distiller(student, answers, seen, params["distill"][str(i)], its)
        memory["distill"][str(i)] = kd.memory
        distill += distiller.weight * kd.per_example
        penalty += distiller.weight * kd.penalty
        task = task if kd.task_weight is None else kd.task_weight * task
        metrics |= {f"distill{i}/{k}": v for k, v in kd.metrics.items()}
    inside = 1.0 if methods.scope == "total" else 0.0
    total = methods.task_weight * task + inside * methods.kd_weight * known * distill
    loss, memory["debias"], told = methods.debias(
        Terms(task=plain, distill=distill, total=total),
        outputs,
        shown,
        params["debias"],
        ours,
        debias_key,
    )
    outside, part = (1.0 - inside) * masked_mean(distill, real) + penalty, 1.0
    if "labelled" in batch:
        part = jnp.sum(own) / jnp.maximum(jnp.sum(real), 1.0) / known  # 1 without micro-batches
        outside += inside * masked_mean(distill * (1 - batch["labelled"]), real)
    loss = part * loss + methods.kd_weight * outside
    correct = (jnp.argmax(student.logits, axis=1) == batch["label"]).astype(jnp.float32)
    metrics |= {f"debias/{k}": v for k, v in told.items()} | {
        "loss": loss,
        "task_loss": part * masked_mean(task, own),
        "distill_loss": masked_mean(distill, real) + penalty,
        "accuracy": part * masked_mean(correct, own),
    }
    return loss, (new_stats, memory, metrics)


def train_step(
    program: Program,
    state: TrainState,
    methods: Methods,
    numbers: optim.Numbers,
    now: Now,
    batch: Batch | tuple,
    teachers: dict[str, Any],
    seed: Array,
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    """The state after one step on one global batch, and the step's metrics (float32 scalars).

    With a mesh over which large parameters are split, they are gathered to compute with. `now`
    holds what is true of the whole run: step and memory are those of the state.

    With `accumulate` = k the gradient is the mean over k micro-batches, weighted by their real
    rows; micro-batches are unrolled, for a convolution's weight gradient inside a scan is slow.
    """
    key, batch = jax.random.fold_in(_stream(seed, STEPS), state.step), decoded(batch)
    split = mesh and mesh.shape["fsdp"] > 1
    gather = functools.partial(sharding.whole, mesh=mesh) if split else None
    gradient = jax.grad(_loss, has_aux=True)
    rows, known = jnp.maximum(jnp.sum(batch["real"]), 1.0), 1.0
    if "labelled" in batch:
        known = jnp.maximum(jnp.sum(labelled(batch)), 1.0) / rows
    stats, memory, grads, metrics = state.stats, state.memory, None, None
    for k in range(program.accumulate):
        # Every k-th row: each micro-batch stays spread over all devices.
        part = jax.tree.map(lambda x, k=k: x[k :: program.accumulate], batch)
        share = jnp.sum(part["real"]) / rows if program.accumulate > 1 else 1.0
        grad, (stats, memory, values) = gradient(
            state.params,
            program,
            methods,
            stats,
            now.replace(step=state.step, memory=memory),
            part,
            teachers,
            jax.random.fold_in(key, k) if program.accumulate > 1 else key,
            known,
            gather,
        )
        grad, values = jax.tree.map(lambda x, s=share: s * x, (grad, values))
        grads = grad if grads is None else jax.tree.map(jnp.add, grads, grad)
        metrics = values if metrics is None else jax.tree.map(jnp.add, metrics, values)
    norm = optim.gradient_norm(program.rule, grads)
    optimizer = optim.optimizer(program.rule, numbers, norm)
    updates, opt = optimizer.update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    if program.deterministic:
        stats = state.stats
    metrics["gradient_norm"] = norm  # before clipping
    after = state.replace(step=state.step + 1, params=params, stats=stats, opt=opt, memory=memory)
    if numbers.ema is not None:
        average = optax.ema(numbers.ema).update(student_variables(after), state.average)[1]
        after = after.replace(average=average)
    return after, metrics


@functools.lru_cache(maxsize=PROGRAMS)
def compile_step(
    program: Program, mesh: Mesh, kind: Any = None
) -> Callable[..., tuple[TrainState, dict]]:
    """`train_step` under one `jax.jit` for all runs of the program; the state is donated.

    `kind` is the tree structure of the methods: programs are kept, and forgotten, by it too.
    """

    def step(state, *arguments):
        state, metrics = train_step(program, state, *arguments, mesh)
        return jax.lax.with_sharding_constraint(
            state, sharding.state_shardings(state, mesh)
        ), metrics

    return jax.jit(step, donate_argnums=0)


def fresh_state(program: Program, mesh: Mesh, methods: Methods, *arguments: Any) -> TrainState:
    """`init_state`, born where it will live; `arguments` are its others but for the nets.

    Nets are made by a program of their own, the longest to compile: all methods share it.
    """
    seed = arguments[-1]
    nets = {
        name: fresh_net(net, mesh, seed, i)
        for i, (name, net) in enumerate(trained_nets(program.student, methods.debias).items())
    }
    compiled = _compile_init(program, mesh, jax.tree.structure(methods))
    return compiled(methods, *arguments[:-1], nets, seed)


def fresh_net(net: Net, mesh: Mesh, seed: Array, i: int = 0) -> dict[str, Any]:
    """Variables of the i-th net of a run, the student first, as training with a seed has them."""
    return _compile_init_net(net, mesh)(seed, sharding.put_replicated(np.uint32(i), mesh))


@functools.lru_cache(maxsize=PROGRAMS)
def _compile_init_net(net: Net, mesh: Mesh) -> Callable[..., dict[str, Any]]:
    return _born_sharded(lambda seed, i: net.init(net_key(seed, i)), mesh)


@functools.lru_cache(maxsize=PROGRAMS)
def _compile_init(program: Program, mesh: Mesh, kind: Any) -> Callable[..., TrainState]:
    return _born_sharded(functools.partial(init_state, program), mesh)


def _born_sharded(function: Callable, mesh: Mesh) -> Callable:
    def placed(*arguments):
        made = function(*arguments)
        return jax.lax.with_sharding_constraint(made, sharding.state_shardings(made, mesh))

    return jax.jit(placed)
