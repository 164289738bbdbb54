"""The steps that are timed: the library's, the same mathematics by hand, and that under pmap.

Batches lie ready on the devices and take turns; the loss of every step is read, so that a time is
the time until the numbers are there.
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
from fairkd_jax.benchmark.workload import KD_WEIGHT, OPTIM, TEMPERATURE, Setup
from fairkd_jax.models.net import Net
from fairkd_jax.train import optim
from fairkd_jax.train.step import compile_step, fresh_state, net_key, table_of
from fairkd_jax.types import Array, Batch

SEED = np.uint32(0)


@dataclasses.dataclass
class Runner:
    """A step with its state and its batches; calling it takes one step.

    `arguments(state, batch)` are what `function` wants; it gives (state, {"loss": ..., ...}).
    """

    function: Any  # of jax.jit or jax.pmap
    arguments: Callable[[Any, Batch], tuple]
    state: Any
    batches: list[Batch]
    taken: int = 0

    def __call__(self) -> float:
        """The loss, read."""
        batch = self.batches[self.taken % len(self.batches)]
        self.state, metrics = self.function(*self.arguments(self.state, batch))
        self.taken += 1
        return metrics["loss"].addressable_data(0).item()

    def lower(self) -> Any:
        """The step traced and lowered, ready to compile."""
        return self.function.lower(*self.arguments(self.state, self.batches[0]))


def library_step(case: Setup, mesh: Mesh, abstract: bool = False) -> Runner:
    """The library's own step, called as the training loop calls it.

    Abstract: with shapes instead of arrays, to lower and never to call; so for every step here.
    """
    constants = case.methods, optim.numbers(OPTIM, OPTIM.learning_rate), case.now, SEED
    methods, numbers, now, seed = sharding.put_replicated(constants, mesh)
    batches = _batches(case, mesh, abstract)
    first = methods, numbers, now, batches[0], seed
    fresh = functools.partial(fresh_state, case.program, mesh)
    state = _placed(jax.eval_shape(fresh, *first), mesh) if abstract else fresh(*first)
    teachers = _teachers(case, mesh, abstract)

    def arguments(state: Any, batch: Batch) -> tuple:
        # It may differ at every step.
        rate = sharding.put_replicated(np.float32(OPTIM.learning_rate), mesh)
        return state, methods, numbers.replace(learning_rate=rate), now, batch, teachers, seed

    step = compile_step(case.program, mesh)
    return Runner(step, arguments, state, batches)


def plain_step(case: Setup, mesh: Mesh, abstract: bool = False) -> Runner:
    """The same mathematics by hand under `jax.jit`. Raises ValueError for a debiasing method."""
    step = jax.jit(by_hand(case), donate_argnums=0)
    student = _variables(case.program.student, SEED, mesh, abstract)
    state = _placed(jax.eval_shape(_plain_state, student), mesh)
    if not abstract:
        places = jax.tree.map(lambda x: x.sharding, state)
        state = jax.jit(_plain_state, out_shardings=places)(student)
    teachers = _teachers(case, mesh, abstract)
    return Runner(
        step,
        lambda state, batch: (state, batch, teachers, SEED),
        state,
        _batches(case, mesh, abstract),
    )


def pmap_step(case: Setup, mesh: Mesh, abstract: bool = False) -> Runner:
    """The step by hand under `jax.pmap`, on all devices whatever the mesh.

    Each device normalises by the statistics of its own rows and drops out by its own key. Raises
    ValueError for a debiasing method.
    """
    del mesh
    step = jax.pmap(by_hand(case, axis="data"), axis_name="data", donate_argnums=0)

    def first(seed: Array) -> tuple:
        state = _plain_state(_init(case.program.student, seed))
        return state, {name: _init(net, seed + 1) for name, net in case.live.items()}, seed

    seeds = np.full(jax.local_device_count(), SEED)
    born = jax.pmap(first)
    state, teachers, seeds = jax.eval_shape(born, seeds) if abstract else born(seeds)

    def deal(batch: Batch) -> Batch:
        return jax.tree.map(lambda x: x.reshape(len(seeds), -1, *x.shape[1:]), batch)

    if abstract:
        batches = [jax.eval_shape(deal, case.batch)]
    else:
        batches = [jax.pmap(lambda x: x)(deal(batch)) for batch in case.batches()]
    return Runner(step, lambda state, batch: (state, batch, teachers, seeds), state, batches)


STEPS = {  # parallel: {step: how it is made}; the first is the one that is meant
    "pjit": {"library": library_step, "plain": plain_step},
    "pmap": {"plain": pmap_step},
}


def by_hand(case: Setup, axis: str | None = None) -> Callable[..., tuple[Any, dict]]:
    """What one would write for this workload and no other: cross-entropy, or Hinton's distillation.

    `axis`: over which gradients are averaged, under pmap. Raises ValueError for another method.
    """
    if case.work.debias != "erm" or case.work.distill:
        raise ValueError(
            f"debias = {case.work.debias!r}, distill = {case.work.distiller!r}: by hand there is "
            "only erm, and what --mode says"
        )
    student, teacher, optimizer = case.program.student, case.live.get("teacher"), plain_optimizer()

    def loss_of(params: Any, stats: Any, batch: Batch, answers: Any, key: Array):
        variables = {"params": params, "stats": stats}
        out, stats = student.apply(variables, batch, train=True, key=key)
        log_probs = jax.nn.log_softmax(out.logits)
        loss = -jnp.mean(jnp.take_along_axis(log_probs, batch["label"][:, None], axis=1))
        if answers is not None:
            wanted = jax.nn.log_softmax(answers / TEMPERATURE)
            given = jax.nn.log_softmax(out.logits / TEMPERATURE)
            divergence = jnp.mean(jnp.sum(jnp.exp(wanted) * (wanted - given), axis=1))
            loss = (1 - KD_WEIGHT) * loss + KD_WEIGHT * TEMPERATURE**2 * divergence
        return loss, stats

    def step(state: Any, batch: Batch, teachers: Any, seed: Array) -> tuple[Any, dict]:
        # As the library derives the student's key, so that dropout is the same, bit for bit.
        key = jax.random.fold_in(jax.random.split(jax.random.key(seed), 3)[2], state["step"])
        key = jax.random.split(key, 3)[2]
        answers = None
        if teacher is not None:
            answers = teacher.apply(teachers["teacher"], batch, train=False)[0].logits
        elif "tables" in batch:
            answers = batch["tables"][table_of("teacher")]["logits"]
        if axis is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis))
        (loss, stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(
            state["params"], state["stats"], batch, answers, key
        )
        if axis is not None:
            loss, stats, gradient = jax.lax.pmean((loss, stats, gradient), axis)
        updates, opt = optimizer.update(gradient, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        new = {"step": state["step"] + 1, "params": params, "stats": stats, "opt": opt}
        return new, {"loss": loss}

    return step


def plain_optimizer() -> optax.GradientTransformation:
    """AdamW as a constant; matrices decay."""

    def matrices(params: Any) -> Any:
        return jax.tree.map(lambda x: x.ndim > 1, params)

    return optax.adamw(OPTIM.learning_rate, weight_decay=OPTIM.weight_decay, mask=matrices)


def _plain_state(student: Any) -> dict[str, Any]:
    """The state of the step by hand, from the student's variables."""
    opt = plain_optimizer().init(student["params"])
    return {"step": jnp.zeros((), jnp.int32), **student, "opt": opt}


def _init(net: Net, seed: Array) -> dict[str, Any]:
    """Fresh variables; the student's are the library's."""
    return net.init(net_key(seed, 0))


def _teachers(case: Setup, mesh: Mesh, abstract: bool) -> dict[str, Any]:
    return {name: _variables(net, SEED + 1, mesh, abstract) for name, net in case.live.items()}


def _variables(net: Net, seed: np.uint32, mesh: Mesh, abstract: bool) -> dict[str, Any]:
    """Fresh variables where the mesh wants them; abstract: their shapes there."""
    return _placed(net.variable_shapes(), mesh) if abstract else _compile_init(net, mesh)(seed)


@functools.cache
def _compile_init(net: Net, mesh: Mesh) -> Callable[[Array], dict[str, Any]]:
    places = sharding.state_shardings(net.variable_shapes(), mesh)
    return jax.jit(functools.partial(_init, net), out_shardings=places)


def _placed(shapes: Any, mesh: Mesh) -> Any:
    places = sharding.state_shardings(shapes, mesh)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places
    )


def _batches(case: Setup, mesh: Mesh, abstract: bool) -> list[Batch]:
    """Batches over the devices of the mesh; abstract: one, the shapes of global arrays there."""
    if not abstract:
        return [sharding.put_batch(batch, mesh) for batch in case.batches()]
    place, rows = sharding.batch_sharding(mesh), (case.work.batch,)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(rows + x.shape[1:], x.dtype, sharding=place), case.batch
    )
    return [shapes]
