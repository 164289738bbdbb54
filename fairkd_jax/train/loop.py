"""Trains one net, from its config to its weights: a linear story that may be killed anywhere.

Order within a step matters: train, then check and log, then validate, then checkpoint. So a
checkpoint at step s means that everything up to s was checked, logged and validated.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from fairkd_jax import processes, registry, sharding
from fairkd_jax.config import Data, Train, TrainStage
from fairkd_jax.data import pipeline
from fairkd_jax.data.tables import Table
from fairkd_jax.models import weights
from fairkd_jax.models.net import Net, make_net
from fairkd_jax.registry import UnknownName
from fairkd_jax.train import drawn, log, optim, start
from fairkd_jax.train.checkpoint import Checkpoints, save_net
from fairkd_jax.train.feed import Feed
from fairkd_jax.train.methods import finished, shown_to
from fairkd_jax.train.passes import trained_nets
from fairkd_jax.train.step import (
    Methods,
    Program,
    compile_step,
    fresh_state,
    init_params,
    kept_variables,
    make_spec,
    student_variables,
    table_of,
    teachers_of,
)
from fairkd_jax.train.trackers import Tracker
from fairkd_jax.types import Path, TrainState, schedule, with_numbers

SCOPES = ("total", "task")


class NotFinite(RuntimeError):
    """The loss or the gradient became NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What earlier stages hand to a training stage."""

    teachers: Mapping[str, tuple[Net, Any]] = dataclasses.field(default_factory=dict)
    tables: Mapping[str, Table] = dataclasses.field(default_factory=dict)
    start: Any = None  # variables to start from, {"params", "stats"}


@dataclasses.dataclass(frozen=True)
class Validation:
    """How a run is watched: `score(variables)` -> (scalars to log, what is to be largest or None).

    What is to be largest is a value and, among equals, a second one: the average accuracy.
    """

    score: Callable[[Any], tuple[dict[str, float], tuple[float, float] | None]]


def net_of(data: Data, model: Mapping[str, Any]) -> Net:
    """The net of a model's config for the labels and the views of a data config."""
    opened = pipeline.open_data(data)
    return make_net(model, len(opened.dataset.info.label_names), opened.facts)


def settled(config: TrainStage) -> TrainStage:
    """The same with steps in the place of epochs, the last one whole; ValueError for both."""
    train, usual = config.train, Train().steps
    if train.epochs == 0:
        return config
    if train.steps != usual or not 0 < train.epochs < math.inf:
        raise ValueError(
            f"train.epochs = {train.epochs} and train.steps = {train.steps}: one says how long. "
            f"Leave train.steps at {usual}, or train.epochs at 0"
        )
    source = pipeline.open_data(config.data).drawn()
    examples = train.epochs * pipeline.epoch_size(source, config.data.sampler, train.batch_size)
    steps = math.ceil(round(examples / train.batch_size, 6))
    return dataclasses.replace(config, train=dataclasses.replace(train, steps=steps, epochs=0.0))


def build(config: TrainStage, teachers: Mapping[str, Net | None]) -> tuple[Program, Methods]:
    """The static and the traced half of a run; every name and every option is checked here.

    `teachers` maps a teacher's name to its net, or to None where a table holds its logits.
    Raises UnknownName and ValueError, naming value, place and choices.
    """
    optim.check(config.optim)
    train, mix = config.train, config.mix
    if mix.scope not in SCOPES:
        raise UnknownName(mix.scope, "mix.scope", SCOPES)
    fewest = 0 if train.select == "last" else 1
    if train.steps < fewest or min(train.batch_size, train.accumulate, train.log_every) < 1:
        raise ValueError(
            "train needs steps, batch_size, accumulate, log_every >= 1 (with select = 'last' also "
            f"steps = 0: the weights it starts from, as they are): {train}"
        )
    if train.patience < 0 or (train.patience and not (fewest and train.eval_every)):
        raise ValueError(
            f"train.patience = {train.patience} counts validations that select: it needs "
            f"train.select = {train.select!r} to be another than 'last', and train.eval_every = "
            f"{train.eval_every} above 0"
        )
    for name in ("ema", "label_smoothing"):
        if not 0 <= (value := getattr(train, name)) < 1:
            raise ValueError(f"train.{name} = {value}: expected a share from 0 up to, but not, 1")
    if train.batch_size % (jax.device_count() * train.accumulate):
        raise ValueError(
            f"train.batch_size = {train.batch_size} does not divide over {jax.device_count()} "
            f"devices and {train.accumulate} micro-batches"
        )
    methods = Methods(
        debias=registry.build("debias", config.debias),
        distill=tuple(registry.build("distill", d) for d in config.distill),
        task_weight=mix.task_weight,
        kd_weight=schedule(mix.kd_weight, "mix.kd_weight"),
        label_smoothing=train.label_smoothing or None,
        scope=mix.scope,
        shares=teachers_of(mix),
    )
    called = [f"debias {config.debias['name']!r}"]
    called += [f"distill {d['name']!r}" for d in config.distill]
    for name, method in zip(called, methods.all):
        if method.couples_examples and train.accumulate > 1:
            raise ValueError(
                f"{name} couples the examples of a batch: its loss is no mean over micro-batches, "
                f"so train.accumulate = {train.accumulate} must be 1"
            )
    reads = {d.reads for d in methods.distill} - {"nothing"}
    if reads and not teachers:
        raise ValueError(f"distill {[d['name'] for d in config.distill]} needs a teacher")
    if "inside" in reads and None in teachers.values():
        raise ValueError("a distiller that reads inside the teacher needs it live, not its table")
    if reads and None in teachers.values() and drawn.changes_inputs(config.data, methods.debias):
        raise ValueError(
            f"debias {config.debias['name']!r}, a view of {[*config.data.views]} or an "
            f"augmentation of {[*config.data.augment]} changes inputs at random: a table of the "
            "teacher's answers is of others, so the teacher must run live"
        )
    drawn.check_mixing(config, methods)
    opened = pipeline.open_data(config.data)
    student = net_of(config.data, config.model)
    program = Program(
        student=student,
        rule=optim.rule_of(config.optim, train.trainable, student.architecture.order()),
        teachers=tuple(sorted(teachers.items())) if reads else (),
        num_attributes=config.attributes or len(opened.dataset.info.attribute_names),
        num_examples=drawn.largest_id(opened) + 1,
        accumulate=train.accumulate,
        deterministic=train.deterministic,
    )
    drawn.check_resident(config)
    source = opened.drawn()
    for net in (program.student, *filter(None, teachers.values())):
        source.require(net.view, net.architecture.rows())
    if found := weights.split(config.model)[1]:
        start.check_published(config.data, program.student, found)
    return program, jax.tree.map(np.float32, methods)


def check(config: TrainStage, teachers: Mapping[str, Net | None]) -> None:
    """Everything that can be known to fail before any compute is spent; raises what `build` does.

    Tables that earlier stages have yet to write are assumed to hold what they promise.
    """
    config = settled(config)
    program, methods = build(config, teachers)
    drawn.batches(config, methods, program, {})  # may its padding and its sampler be?
    batch = drawn.batches(config, methods, program, {}, padding="fixed")[0]
    rows, classes = len(batch["label"]), program.student.num_classes
    batch["tables"] = {
        table_of(name): {"logits": np.zeros((rows, classes), np.float32)}
        for name, net in program.teachers
        if net is None
    }
    spec = make_spec(program, methods, drawn.now_of(config, methods, {}), batch)
    at_end = with_numbers(methods, lambda number: number.end)
    methods = with_numbers(methods, lambda number: number.start)
    for method in (*methods.all, *at_end.all):
        method.check(shown_to(method, spec))
    nets = trained_nets(program.student, methods.debias).items()
    params, _ = jax.eval_shape(
        lambda nets: init_params(methods, spec, nets, np.uint32(config.seed)),
        {name: net.variable_shapes()["params"] for name, net in nets},
    )
    nets = dict(program.teachers) | {"": program.student}
    shapes = {name: net.variable_shapes() for name, net in nets.items() if net}
    jax.eval_shape(
        lambda student, *rest: finished(methods, student, *rest), shapes.pop(""), params, shapes
    )
    optim.labels(params, program.rule.trainable)
    numbers = optim.numbers(config.optim, config.optim.learning_rate)
    jax.eval_shape(lambda p: optim.factors(p, program.rule, numbers), params)


def run(
    config: TrainStage,
    folder: Path,
    mesh: Mesh,
    inputs: Inputs = Inputs(),
    *,
    validation: Validation | None = None,
    stopping: Callable[[], bool] = lambda: False,
    guard: Callable[[], None] = lambda: None,
    trackers: Callable[[], Sequence[Tracker]] = tuple,
    name: str = "train",
) -> int:
    """Trains and leaves `folder/net`; goes on from `folder/checkpoints` where there are any.

    Returns the number of steps: fewer than asked for where `train.patience` ended it.

    The net is that of the last step or, with a rule of selection, of the largest value: of equal
    ones that of the largest second value, then the later. `guard` is called before anything is
    written, in process 0, and raises where that is no longer right. `trackers` starts those that
    are told what is logged, in process 0.

    Raises NotFinite (naming the step; the last good checkpoint stays) and Interrupted.
    """
    config = settled(config)
    train, selects = config.train, config.train.select != "last"
    live = {k: net for k, (net, _) in inputs.teachers.items()}
    tabled = {k: None for k in teachers_of(config.mix) if table_of(k) in inputs.tables}
    program, methods = build(config, live | tabled)
    for method in methods.all:
        method.check_tables({k: t.columns for k, t in inputs.tables.items()})

    batches = drawn.batches(config, methods, program, inputs.tables, resident=config.data.resident)
    shapes = drawn.batches(config, methods, program, inputs.tables, padding="fixed")
    rates = optim.learning_rates(config.optim, train.steps)
    numbers = optim.numbers(config.optim, config.optim.learning_rate, train.ema)
    now = drawn.now_of(config, methods, inputs.tables)
    if config.attributes and np.any(now.group_counts == 0):  # known only now
        logging.warning(
            "of the groups that were inferred some are empty, %s by label and attribute: the net "
            "that they were inferred from may be trained too briefly",
            now.group_counts.astype(int).tolist(),
        )
    constants = methods, numbers, now, np.uint32(config.seed)
    methods, numbers, now, seed = sharding.put_replicated(constants, mesh)
    first = sharding.put_batch(shapes[0], mesh)  # of one shape, whatever the seed draws
    state = fresh_state(program, mesh, methods, numbers, now, first, seed)
    state = start.from_published(state, program.student, config)
    if inputs.start is not None:
        state = start.from_variables(state, inputs.start)

    # What decides the outcome beside the state; all of it is in each checkpoint.
    best = jax.tree.map(jnp.copy, student_variables(state)) if selects else {}
    reached: list[float] | None = None  # value and second value of the best
    stale = 0  # validations since the value was last surpassed
    means = log.Means()  # of the scalars since the last line of the log

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(folder / "checkpoints")))
        lines: list[dict] = []
        if found := checkpoints.restore({"state": _written(state), "best": best}):
            (tree, progress) = found
            state, best = TrainState(**tree["state"]), tree["best"]
            reached, lines = progress["reached"], progress["lines"]
            stale, means = progress.get("stale", 0), log.Means(**progress.get("means", {}))
        done = begun = int(jax.device_get(state.step))
        told = trackers() if jax.process_index() == 0 else ()
        for tracker in told:
            stack.callback(tracker.close)
        writer = log.Writer(folder / "metrics.jsonl", lines, told)
        bar = stack.enter_context(
            log.progress(total=train.steps, initial=begun, desc=name, unit="step", leave=False)
        )
        step = compile_step(program, mesh, jax.tree.structure(methods))
        teachers = {k: v for k, (_, v) in inputs.teachers.items()}
        pending: list[dict] = []

        def kept() -> Any:
            return finished(methods, kept_variables(state, numbers), state.params, teachers)

        everything = drawn.resident_of(shapes[0], config, inputs.tables, mesh)

        def send(i: int) -> tuple:
            batch, rate = sharding.put_step(batches[i], rates[i], mesh)
            return (batch if everything is None else (everything, batch)), rate

        def idle() -> bool:
            return not pending or pending[-1]["loss"].is_ready()

        feed = stack.enter_context(Feed(send, begun, train.steps))
        spent = 0.0  # seconds since the last line of the log, without validation and checkpoints
        for done in range(begun + 1, train.steps + 1):
            start_of_step = time.perf_counter()
            batch, rate = feed.take(idle)
            numbers = numbers.replace(learning_rate=rate)
            state, metrics = step(state, methods, numbers, now, batch, teachers, seed)
            pending.append(metrics)
            bar.update()
            last = done == train.steps
            # Several hosts must agree to stop, and meet for it only where they log anyway.
            meet = jax.process_count() == 1 or done % train.log_every == 0
            stop = meet and not last and processes.agree(stopping)
            save = done % train.checkpoint_every == 0 and not last
            logs = done % train.log_every == 0 or last
            if logs or save or stop:
                try:
                    _add_finite(means, pending, done, folder)
                except NotFinite:
                    writer.flush()  # how it came to that
                    raise
                pending = []
            spent += time.perf_counter() - start_of_step
            if logs:
                scalars = means.take()
                share, spent, feed.waited = feed.waited / spent, 0.0, 0.0
                times = {"time/data_wait": round(share, 4)}
                writer.write_scalars(done, {f"train/{k}": v for k, v in scalars.items()} | times)
                rate = (bar.format_dict["rate"] or 0) * train.batch_size
                bar.set_postfix(loss=f"{scalars['loss']:.3f}", examples=f"{rate:.0f}/s")
            if validation and (last or (train.eval_every and done % train.eval_every == 0)):
                variables = kept()
                scalars, value = validation.score(variables)
                chosen = {} if value is None else {"selection": value[0]}
                writer.write_scalars(done, scalars | chosen)
                if value is not None:
                    stale = 0 if reached is None or value[0] > reached[0] else stale + 1
                    if reached is None or [*value] >= reached:
                        reached, best = [*value], jax.tree.map(jnp.copy, variables)
                    if 0 < train.patience <= stale:
                        break
            if save or stop:
                processes.lead(guard)
                writer.flush()
                progress = {"reached": reached, "stale": stale, "lines": writer.lines}
                progress["means"] = vars(means)
                checkpoints.save(done, {"state": _written(state), "best": best}, progress)
            if stop:
                raise processes.Interrupted(
                    f"stopped at step {done} of {train.steps}; {folder} goes on there"
                )
        processes.lead(guard)
        writer.flush()
        save_net(folder / "net", best if selects else kept())
    return done


def _written(state: TrainState) -> dict[str, Any]:
    """A state as checkpoints have it: an average that is not kept is not in them."""
    return {k: v for k, v in vars(state).items() if k != "average" or v}


def _add_finite(means: log.Means, pending: list[dict], done: int, folder: Path) -> None:
    """Adds the scalars of steps; NotFinite with the first of them that went wrong."""
    fetched = jax.device_get(pending)
    for back, scalars in zip(range(len(fetched) - 1, -1, -1), fetched):
        bad = [k for k in ("loss", "gradient_norm") if not np.isfinite(scalars[k])]
        if bad:
            raise NotFinite(
                f"{bad[0]} is {scalars[bad[0]]} at step {done - back} ({folder}); lower "
                "optim.learning_rate or set optim.clip_norm. The last good checkpoint is kept"
            )
        means.add(scalars)
