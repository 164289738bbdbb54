"""Smoothed labels: optax's formula in float64, for every debiasing method, traced once."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import synthetic as s

from fairkd_jax import registry, sharding
from fairkd_jax.debias.erm import ERM
from fairkd_jax.train import step
from fairkd_jax.train.step import compile_step, fresh_state, task_losses
from fairkd_jax.types import Outputs

ONE = sharding.make_mesh(devices=jax.devices()[:1])


@pytest.mark.quick
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("debias", ["erm", "poe"])
def test_the_task_loss_is_that_of_smoothed_labels(debias, mixed):
    with jax.enable_x64(True):
        rng, rows, classes, share = np.random.default_rng(0), 6, 3, 0.2
        logits, bias = rng.normal(size=(2, rows, classes))
        label, partner = rng.integers(0, classes, (2, rows)).astype(np.int32)
        tables = {"bias": {"log_probs": jnp.asarray(bias)}}
        batch = {"label": jnp.asarray(label), "real": jnp.ones(rows), "tables": tables}
        targets = np.eye(classes)[label]
        if mixed and debias == "erm":
            weight = rng.uniform(size=rows)
            batch |= {"partner_label": jnp.asarray(partner), "label_weight": jnp.asarray(weight)}
            targets = weight[:, None] * targets + (1 - weight[:, None]) * np.eye(classes)[partner]
        method = registry.build("debias", {"name": debias})
        methods = step.Methods(method, (), label_smoothing=share)
        outputs = {"student": Outputs(logits=jnp.asarray(logits))}
        now = s.NOW.replace(step=jnp.int32(0))
        plain, smoothed = task_losses(methods, outputs, batch, {}, now)
        if debias == "poe":
            logits = logits + bias
        for got, e in ((plain, 0.0), (smoothed, share)):
            want = optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, e))
            np.testing.assert_allclose(got, want, rtol=1e-12)


DEFAULT = ("erm", "group_dro", "lff", "mixup", "poe")  # test_step.py steps with all others
EVERY = [
    pytest.param(name, marks=() if name in DEFAULT else pytest.mark.slow)
    for name in registry.available("debias")
]


@pytest.mark.parametrize("debias", EVERY)
def test_a_step_of_any_method_learns_with_smoothed_labels(debias):
    losses = {
        share: loss_of(registry.build("debias", {"name": debias}), share) for share in (1e-9, 0.5)
    }  # of one program
    assert np.isfinite([*losses.values()]).all() and losses[1e-9] != losses[0.5]


def test_one_trace_for_all_shares(monkeypatch):
    traces = []
    original = step.train_step
    monkeypatch.setattr(step, "train_step", lambda *a: traces.append(1) or original(*a))
    compile_step.cache_clear()
    for share in (0.1, 0.2, 0.3):
        loss_of(ERM(), share)
    compile_step.cache_clear()
    assert len(traces) == 1


def loss_of(debias, share: float) -> float:
    methods = s.methods(debias)
    if share:
        methods = methods.replace(label_smoothing=np.float32(share))
    program, batch = s.program(s.small_net("bert")), s.batch()
    seed = np.uint32(0)
    state = fresh_state(program, ONE, methods, s.numbers(), s.NOW, batch, seed)
    _, metrics = compile_step(program, ONE)(state, methods, s.numbers(), s.NOW, batch, {}, seed)
    return float(metrics["loss"])
