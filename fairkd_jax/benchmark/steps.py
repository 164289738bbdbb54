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
from fairkd_jax.train import optim
from fairkd_jax.train.step import compile_init, compile_step, init_state, table_of
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
    methods = sharding.put_replicated(case.methods, mesh)
    teachers = _born(mesh, abstract, functools.partial(_teachers, case))

    def arguments(state: Any, batch: Batch) -> tuple:
        numbers = optim.numbers(OPTIM, OPTIM.learning_rate)  # the rate may differ at every step
        return state, methods, numbers, batch, teachers, SEED

    return Runner(
        compile_step(case.program, mesh),
        arguments,
        _library_state(case, mesh, abstract),
        _put(case.batches, mesh, abstract),
    )


def plain_step(case: Setup, mesh: Mesh, abstract: bool = False) -> Runner:
    """The same mathematics by hand under `jax.jit`. Raises ValueError for a debiasing method."""
    key, teachers = _step_key(), _born(mesh, abstract, functools.partial(_teachers, case))
    return Runner(
        jax.jit(by_hand(case), donate_argnums=0),
        lambda state, batch: (state, batch, teachers, key),
        _born(mesh, abstract, _plain_state, _library_state(case, mesh, abstract)),
        _put(case.batches, mesh, abstract),
    )


def pmap_step(case: Setup, mesh: Mesh, abstract: bool = False) -> Runner:
    """The step by hand under `jax.pmap`, on all devices whatever the mesh.

    Each device normalises by the statistics of its own rows and drops out by its own key. Raises
    ValueError for a debiasing method.
    """
    del mesh
    devices = np.arange(jax.local_device_count())

    def born(make: Callable[[], Any]) -> Any:
        everywhere = jax.pmap(lambda _: make())
        return jax.eval_shape(everywhere, devices) if abstract else everywhere(devices)

    split = functools.partial(
        jax.tree.map, lambda x: x.reshape(len(devices), -1, *x.shape[1:]), case.batches
    )
    key, teachers = born(_step_key), born(functools.partial(_teachers, case))
    return Runner(
        jax.pmap(by_hand(case, axis="data"), axis_name="data", donate_argnums=0),
        lambda state, batch: (state, batch, teachers, key),
        born(lambda: _plain_state(init_state(case.program, *_init_arguments(case)))),
        split() if abstract else [jax.pmap(lambda x: x)(batch) for batch in split()],
    )


STEPS = {  # parallel: {step: how it is made}; the first is the one that is meant
    "pjit": {"library": library_step, "plain": plain_step},
    "pmap": {"plain": pmap_step},
}


def by_hand(case: Setup, axis: str | None = None) -> Callable[..., tuple[Any, dict]]:
    """What one would write for this workload and no other: cross-entropy, or Hinton's distillation.

    `axis`: over which gradients are averaged, under pmap. Raises ValueError for a debiasing method.
    """
    if case.work.debias != "erm":
        raise ValueError(f"debias = {case.work.debias!r}: by hand there is only erm")
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

    def step(state: Any, batch: Batch, teachers: Any, key: Array) -> tuple[Any, dict]:
        # The third of three keys, for so dropout is the library's, bit for bit.
        key = jax.random.split(jax.random.fold_in(key, state["step"]), 3)[2]
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


def _init_arguments(case: Setup) -> tuple:
    numbers = optim.numbers(OPTIM, OPTIM.learning_rate)
    return case.methods, numbers, *case.counts, case.batches[0], SEED


def _library_state(case: Setup, mesh: Mesh, abstract: bool) -> Any:
    init, arguments = compile_init(case.program, mesh), _init_arguments(case)
    return _places(jax.eval_shape(init, *arguments), mesh) if abstract else init(*arguments)


def _plain_state(state: Any) -> dict[str, Any]:
    """The library's first parameters in the state of the step by hand."""
    params = state.params["nets"]["student"]
    opt = plain_optimizer().init(params)
    return {"step": state.step, "params": params, "stats": state.stats["student"], "opt": opt}


def _teachers(case: Setup) -> dict[str, Any]:
    return {name: net.init(jax.random.key(SEED + 1)) for name, net in case.live.items()}


def _step_key() -> Array:
    """The key that the library folds the number of a step into."""
    return jax.random.split(jax.random.key(SEED))[1]


def _born(mesh: Mesh, abstract: bool, make: Callable[..., Any], *arguments: Any) -> Any:
    """What `make` makes, born where the mesh wants it; abstract: its shapes there."""
    shapes = jax.eval_shape(make, *arguments)
    if abstract:
        return _places(shapes, mesh)
    places = sharding.state_shardings(shapes, mesh)
    return jax.jit(make, out_shardings=places)(*arguments)


def _places(shapes: Any, mesh: Mesh) -> Any:
    places = sharding.state_shardings(shapes, mesh)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places
    )


def _put(batches: list[Batch], mesh: Mesh, abstract: bool) -> list[Batch]:
    """Batches over the devices of the mesh; abstract: the shapes of the global arrays there."""
    if not abstract:
        return [sharding.put_batch(batch, mesh) for batch in batches]
    place, processes = sharding.batch_sharding(mesh), jax.process_count()
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((len(x) * processes, *x.shape[1:]), x.dtype, sharding=place),
        batches,
    )
