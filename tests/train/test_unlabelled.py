"""An example without a label: no method learns its task from it, and distillation counts it."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import synthetic as s

from fairkd_jax import registry, sharding
from fairkd_jax.data.tables import COLUMNS
from fairkd_jax.distill.logits import Logits
from fairkd_jax.losses import kl_divergence, masked_mean, task_loss
from fairkd_jax.train.step import compile_step, fresh_state
from fairkd_jax.types import Outputs

ONE = sharding.make_mesh(devices=jax.devices()[:1])
KNOWN = jnp.asarray(np.arange(16) % 8 < 5, jnp.float32)  # 10 of 16


def stepped(program, methods, batch, steps=1):
    state = fresh_state(program, ONE, methods, s.numbers(), s.NOW, batch, np.uint32(0))
    for _ in range(steps):
        state, metrics = compile_step(program, ONE)(
            state, methods, s.numbers(), s.NOW, batch, {}, np.uint32(0)
        )
    return state, metrics


def close(a, b, **tolerance):
    compare = lambda x, y: np.testing.assert_allclose(x, y, **tolerance)  # noqa: E731
    jax.tree.map(compare, a, b)


@pytest.mark.parametrize("debias", ["group_dro", "lff", "mixup"])
def test_no_method_learns_its_task_from_it(debias):
    """It is as if it were not there, whatever stands in the place of label and group."""
    program = s.program(s.small_net("vit"), deterministic=True)
    methods = s.methods(registry.build("debias", {"name": debias}))
    batch = s.batch()
    flipped = {
        key: jnp.where(KNOWN > 0, batch[key], most - batch[key])
        for key, most in {"label": 1, "attribute": 1, "group": 3}.items()
    }
    without = stepped(program, methods, batch | {"real": KNOWN}, steps=2)
    unlabelled = stepped(program, methods, batch | flipped | {"labelled": KNOWN}, steps=2)
    assert jax.tree.structure(unlabelled[0]) == jax.tree.structure(without[0])
    close(unlabelled, without, rtol=1e-5, atol=1e-7)


def test_the_task_is_a_mean_over_the_labelled_and_distillation_one_over_all():
    batch = s.batch() | {"labelled": KNOWN}
    net, erm = s.small_net("vit"), registry.build("debias", {"name": "erm"})
    done = {}
    for scope, accumulate in (("total", 1), ("task", 1), ("total", 2), ("task", 2)):
        options = {"deterministic": True, "accumulate": accumulate}
        program = s.program(net, (("teacher", None),), **options)
        methods = s.methods(erm, [Logits(temperature=2.0)], scope)
        done[scope, accumulate] = stepped(program, methods, batch)
    for other in done.values():  # under plain means it is all one, but for rounding
        close(other[0].params, done["total", 1][0].params, rtol=1e-3, atol=1e-5)
        for name in ("loss", "task_loss", "distill_loss", "accuracy"):
            close(other[1][name], done["total", 1][1][name], rtol=1e-5)
    state = fresh_state(program, ONE, methods, s.numbers(), s.NOW, batch, np.uint32(0))
    variables = {"params": state.params["nets"]["student"], "stats": state.stats["student"]}
    logits = net.apply(variables, batch, train=False)[0].logits
    task = masked_mean(task_loss(logits, batch), KNOWN)
    teacher = batch["tables"]["teacher_logits"]["logits"]
    distill = 4 * jnp.mean(kl_divergence(teacher, logits, 2.0))
    told = done["total", 1][1]
    for name, want in {
        "task_loss": task,
        "distill_loss": distill,
        "loss": 0.5 * task + 0.5 * distill,
    }.items():
        np.testing.assert_allclose(told[name], want, rtol=1e-5, err_msg=name)


def test_a_table_says_nothing_of_labels_that_no_one_knows():
    outputs = Outputs(jnp.array([[0.0, 1.0]] * 3), jnp.zeros((3, 1)))
    batch = {"label": jnp.array([0, 0, 1]), "labelled": jnp.array([1.0, 0.0, 1.0])}
    assert COLUMNS["mistake"](outputs, batch).tolist() == [1, 0, 0]
    losses = COLUMNS["loss"](outputs, batch)
    assert losses[1] == 0 and losses[0] > losses[2] > 0
    everything = COLUMNS["mistake"](outputs, {"label": batch["label"]})
    assert everything.tolist() == [1, 1, 0] and everything.dtype == jnp.float32
