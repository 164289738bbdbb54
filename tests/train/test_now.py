"""What a method is told: step, length of the run, counts, its own memory; and that it is kept."""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from flax import struct

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.append(str(ROOT / "tests" / "outside" / "project"))
import synthetic as s

from fairkd_jax import processes, registry, sharding
from fairkd_jax.config import Data, Mix, Optim, Train, TrainStage
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.distill.base import Distiller
from fairkd_jax.train import checkpoint, loop
from fairkd_jax.train import step as step_module
from fairkd_jax.train.step import compile_step, fresh_state
from fairkd_jax.types import Outputs

MESH = sharding.make_mesh(devices=jax.devices()[:1])


@struct.dataclass
class Counting(Debiaser):
    """Tells what it was told, in every hook."""

    def init(self, spec, key):
        return {}, {"calls": jnp.zeros((), jnp.int32)}

    def prepare(self, batch, now, key):
        return batch | {"told": now.step / now.steps}, {}

    def task(self, outputs, batch, params, now):
        return super().task(outputs, batch, params, now) + 0 * now.memory["calls"]

    def __call__(self, terms, outputs, batch, params, now, key):
        loss, memory, _ = super().__call__(terms, outputs, batch, params, now, key)
        told = {"share": batch["told"], "step": now.step, "rarest": jnp.min(now.label_counts)}
        told = {k: jnp.asarray(v, jnp.float32) for k, v in told.items()}
        return loss, {"calls": memory["calls"] + 1}, told


@struct.dataclass
class Remembering(Distiller):
    """Remembers the sum of all labels."""

    def init(self, spec, key):
        return {}, {"labels": jnp.zeros((), jnp.int32)}

    def __call__(self, student, teachers, batch, params, now):
        labels = now.memory["labels"] + jnp.sum(batch["label"])
        kd = super().__call__(student, teachers, batch, params, now)
        return kd.replace(memory={"labels": labels}, metrics={"step": now.step.astype(jnp.float32)})


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_hook_is_told_and_memory_flows_through_micro_batches(monkeypatch, accumulate):
    traces, original = [], step_module.train_step
    monkeypatch.setattr(step_module, "train_step", lambda *a: traces.append(1) or original(*a))
    compile_step.cache_clear()
    methods = s.methods(Counting(), (Remembering(), registry.build("distill", {"name": "none"})))
    program = s.program(s.small_net("resnet"), accumulate=accumulate)
    now, seed = s.NOW.replace(steps=np.float32(8)), np.uint32(0)
    state = fresh_state(program, MESH, methods, s.numbers(), now, s.batch(), seed)
    run, labels = compile_step(program, MESH), 0
    for i in range(3):
        batch = s.batch(seed=i)
        labels += int(batch["label"].sum())
        state, metrics = run(state, methods, s.numbers(), now, batch, {}, seed)
        told = {k: float(metrics[f"debias/{k}"]) for k in ("share", "step", "rarest")}
        assert told == {"share": i / float(now.steps), "step": i, "rarest": 31}
        assert metrics["distill0/step"] == i
        now = now.replace(steps=np.float32(16))  # no new trace
    assert jax.device_get(state.memory) == {
        "debias": {"calls": 3 * accumulate},
        "distill": {"0": {"labels": labels}, "1": {}},
    }
    compile_step.cache_clear()
    assert len(traces) == 1


@struct.dataclass
class Blind(Debiaser):
    """May see no attributes, and looks for them."""

    def prepare(self, batch, now, key):
        assert not {"attribute", "group"} & batch.keys()
        return super().prepare(batch, now, key)

    def __call__(self, terms, outputs, batch, params, now, key):
        assert not {"attribute", "group"} & batch.keys()
        return super().__call__(terms, outputs, batch, params, now, key)


@struct.dataclass
class Sighted(Distiller):
    """May see them, and needs them."""

    sees_attributes = True

    def __call__(self, student, teachers, batch, params, now):
        assert {"attribute", "group"} <= batch.keys()
        return super().__call__(student, teachers, batch, params, now)


def test_attributes_that_a_distiller_sees_are_hidden_from_other_methods():
    """While the step is traced: what a batch holds is static."""
    hidden = registry.build("distill", {"name": "none"})
    methods, program = s.methods(Blind(), (Sighted(), hidden)), s.program(s.small_net("resnet"))
    nets = {"student": jax.eval_shape(program.student.init, jax.random.key(0))}
    given, seed = (methods, s.numbers(), s.NOW, s.batch()), np.uint32(0)
    state = jax.eval_shape(functools.partial(step_module.init_state, program), *given, nets, seed)
    jax.eval_shape(functools.partial(step_module.train_step, program), state, *given, {}, seed)
    assert methods.sees_attributes and not s.methods(Blind(), (hidden,)).sees_attributes


FEW = Data(  # so that each comes several times
    {"name": "my_project.data.spots", "train": 24}, {"grey": {"name": "my_project.data.grey"}}
)
DRAWN = Data(
    {"name": "colored_digits", "image_size": 8},
    {"image": {"name": "image", "crop": 1, "flip": True}},
)
RUNS = {  # data, model, debiasing, distillation
    "a memory": (FEW, "my_project.nets.mlp/small", "erm", "ensembling"),
    "what is drawn": (DRAWN, "resnet/tiny", "my_project.methods.logit_adjustment", "dkd"),
}


@pytest.mark.parametrize("what", RUNS)
def test_survives_a_stop(what, tmp_path):
    data, model, debias, distill = RUNS[what]
    model = dict(zip(("name", "preset"), model.split("/")))
    methods = {"name": debias}, ({"name": f"my_project.methods.{distill}"},)
    train = Train(steps=6, batch_size=16, log_every=2, checkpoint_every=2)
    config = TrainStage(data, model, *methods, Mix(), Optim(), train, 0)
    net = loop.net_of(data, model)
    reads = registry.plugin("distill", methods[1][0]["name"]).reads != "nothing"
    teachers = {"teacher": (net, jax.jit(net.init)(jax.random.key(7)))} if reads else {}

    def run(folder, **options):
        loop.run(config, tmp_path / folder, MESH, loop.Inputs(teachers), **options)
        return checkpoint.load_net(tmp_path / folder / "net", net.variable_shapes())

    whole, left = run("whole"), iter([False, False, True])
    with pytest.raises(processes.Interrupted, match="step 3 of 6"):
        run("stopped", stopping=lambda: next(left))
    jax.tree.map(np.testing.assert_array_equal, whole, run("stopped"))


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.quick
def test_logit_adjustment_is_its_formula():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        z, label, counts = rng.normal(size=(6, 3)), rng.integers(0, 3, 6), np.array([90, 9, 1.0])
        method = registry.build(
            "debias", {"name": "my_project.methods.logit_adjustment", "tau": 1.5}
        )
        now = s.NOW.replace(label_counts=jnp.asarray(counts))
        batch = {"label": jnp.asarray(label, jnp.int32)}
        found = method.task({"student": Outputs(jnp.asarray(z))}, batch, {}, now)
        weighed = np.exp(z) * (counts / 100) ** 1.5
        wanted = -np.log(weighed[np.arange(6), label] / weighed.sum(1))
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.quick
@pytest.mark.parametrize("step", [0, 4, 9, 50])
def test_decoupled_distillation_is_its_formula(step):
    rng, t, alpha, beta = np.random.default_rng(0), 4.0, 1.0, 8.0
    z, label = 3 * rng.normal(size=(2, 6, 5)), rng.integers(0, 5, 6)
    p, q = softmax(z[0] / t), softmax(z[1] / t)  # of teacher and student
    wanted = []
    for i, y in enumerate(label):
        a, b = p[i, y], q[i, y]
        tckd = a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))
        a, b = (np.delete(x[i], y) / (1 - x[i, y]) for x in (p, q))
        wanted.append(t**2 * (alpha * tckd + beta * np.sum(a * np.log(a / b))))
    rise = min((step + 1) / 10, 1)
    for dtype, rtol in (("float64", 1e-10), ("float32", 1e-5)):
        with jax.enable_x64(dtype == "float64"):
            teacher, student = (Outputs(jnp.asarray(x, dtype)) for x in z)
            now = s.NOW.replace(step=np.int32(step), steps=np.dtype(dtype).type(100))
            batch = {"label": jnp.asarray(label, jnp.int32)}
            method = registry.build("distill", {"name": "my_project.methods.dkd"})
            kd = jax.jit(method)(student, (teacher,), batch, {}, now)
            np.testing.assert_allclose(kd.per_example, rise * np.array(wanted), rtol=rtol)
