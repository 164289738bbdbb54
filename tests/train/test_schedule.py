"""Numbers that move over a run, and what a distiller tells of teachers and of the task loss."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import synthetic as s

from fairkd_jax import registry, sharding
from fairkd_jax.config import Data, Experiment, Mix, parse
from fairkd_jax.debias.erm import ERM
from fairkd_jax.distill.base import Distiller
from fairkd_jax.study import chain, plan
from fairkd_jax.train import step as step_module
from fairkd_jax.train.step import Methods, compile_step, fresh_state
from fairkd_jax.types import KD, schedule

MESH = sharding.make_mesh(devices=jax.devices()[:1])
FALLS = {"from": 3.0, "to": 1.0, "until": 0.5}


@struct.dataclass
class Telling(Distiller):
    """Loss 1 for every example, whose task losses weigh `factor`; tells its number."""

    reads = "logits"
    number: float = 0.0
    factor: float = 1.0

    def check(self, spec):
        assert [x.name for x in spec.teachers] == ["a", "b"]

    def init(self, spec, key):
        return {"from": jnp.ones(()) * self.number}, {}

    def __call__(self, student, teachers, batch, params, now):
        assert [x.name for x in teachers] == ["a", "b"]
        ones = jnp.ones(len(batch["real"]))
        told = {"number": jnp.asarray(self.number, jnp.float32)}
        return KD(ones, jnp.zeros(()), metrics=told, task_weight=self.factor * ones)


def test_numbers_move_over_the_run_and_a_distiller_may_weigh_the_task(monkeypatch):
    traces, original = [], step_module.train_step
    monkeypatch.setattr(step_module, "train_step", lambda *a: traces.append(1) or original(*a))
    compile_step.cache_clear()
    program = s.program(s.small_net("resnet"), (("teacher.a", None), ("teacher.b", None)))
    batch, now, seed = s.batch(), s.NOW.replace(steps=np.float32(8)), np.uint32(0)
    table = batch["tables"]["teacher_logits"]
    batch["tables"] = {f"teacher.{name}_logits": table for name in "ab"}
    run = compile_step(program, MESH)

    def methods(factor=1.0, **moves):
        number, weight = (schedule(FALLS | moves, "here") for _ in range(2))
        made = Methods(ERM(), (Telling(number=number, factor=factor),), kd_weight=weight)
        return jax.tree.map(np.float32, made)

    tasks = []
    for factor in (1.0, 2.0):
        state = fresh_state(program, MESH, methods(), s.numbers(), now, batch, seed)
        _, told = run(state, methods(factor), s.numbers(), now, batch, {}, seed)
        tasks.append(told["loss"] - told["distill_loss"] * 3)
    np.testing.assert_allclose(tasks[1], 2 * tasks[0], rtol=1e-5)
    state = fresh_state(program, MESH, methods(), s.numbers(), now, batch, seed)
    assert state.params["distill"]["0"]["from"] == 3
    for moves, wanted in (({}, (3, 2.5, 2)), ({"to": 4.0, "until": 1.0}, (3.375, 3.5))):
        for number in wanted:
            state, told = run(state, methods(**moves), s.numbers(), now, batch, {}, seed)
            np.testing.assert_allclose(told["distill0/number"], number, rtol=1e-6)
            kd = told["loss"] - told["task_loss"]  # weight times the loss of 1
            np.testing.assert_allclose(kd, number, rtol=1e-5)
    compile_step.cache_clear()
    assert len(traces) == 1


@pytest.mark.quick
@pytest.mark.parametrize(
    "value",
    [{"from": 1.0}, {"from": 1, "to": "2"}, FALLS | {"until": 0}, FALLS | {"until": 2}, {"a": 1}],
)
def test_what_is_no_schedule_is_named(value):
    with pytest.raises(ValueError, match=r"distill.logits.temperature = .*expected a number, or"):
        registry.build("distill", {"name": "logits", "temperature": value})
    with pytest.raises(ValueError, match=r"debias.jtt.factor = .*expected a float"):
        registry.build("debias", {"name": "jtt", "factor": value})


@pytest.mark.quick
def test_a_schedule_is_part_of_what_a_run_is_and_a_constant_what_it_was():
    def distilled(mix, temperature):
        chosen = {"name": "logits", "temperature": temperature}
        experiment = {"data": Data(), "distill": chosen, "mix": mix}
        asked = parse(Experiment, experiment)
        return plan._taught(asked, chain.taught(asked)[-1], {})

    one = distilled({"kd_weight": 0.5}, 4.0)
    assert one.identity == distilled(Mix(kd_weight=0.5), 4.0).identity
    moving = distilled({"kd_weight": FALLS}, 4.0), distilled({"kd_weight": 0.5}, FALLS)
    assert len({x.identity for x in (one, *moving)}) == 3
    assert moving[0].config.mix.kd_weight == FALLS
