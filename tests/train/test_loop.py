"""The loop: stopped anywhere it goes on exactly, and what cannot work fails before it trains."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from fairkd_jax import processes, sharding
from fairkd_jax.config import Data, Mix, Optim, Train, TrainStage
from fairkd_jax.data import pipeline
from fairkd_jax.data.tables import read_table, write_table
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.registry import UnknownName
from fairkd_jax.train import checkpoint, log, loop, optim, trackers
from fairkd_jax.train.step import net_key

pytestmark = pytest.mark.quick

MESH = sharding.make_mesh(devices=jax.devices()[:1])
DIGITS = Data(set={"name": "colored_digits", "image_size": 8})
NET = {"name": "resnet", "preset": "tiny"}
NONE = ({"name": "none"},)


def config(**train) -> TrainStage:
    options = {"steps": 6, "batch_size": 16, "log_every": 2, "checkpoint_every": 2} | train
    return TrainStage(DIGITS, NET, {"name": "lff"}, NONE, Mix(), Optim(), Train(**options), 3)


def finished(folder) -> dict:
    net = loop.net_of(DIGITS, NET)
    return jax.device_get(checkpoint.load_net(folder / "net", net.variable_shapes()))


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


class StopAt:
    """Asks to stop when it is asked for the n-th time."""

    def __init__(self, calls: int):
        self.left = calls

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The weights and the log of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    loop.run(config(), folder, MESH)
    return finished(folder), log.read(folder / "metrics.jsonl")


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_stopped_run_goes_on_bit_for_bit(unbroken, tmp_path, steps):
    with pytest.raises(processes.Interrupted, match=f"step {steps} of 6"):
        loop.run(config(), tmp_path, MESH, stopping=StopAt(steps))
    loop.run(config(), tmp_path, MESH)
    assert_equal(finished(tmp_path), unbroken[0])
    assert log.read(tmp_path / "metrics.jsonl") == unbroken[1]


def test_the_log_has_means_over_its_window_which_trackers_are_told(tmp_path):
    class Memory:
        def __init__(self):
            self.lines, self.open = [], True

        def write_scalars(self, step, scalars):
            self.lines.append({"step": step, **scalars})

        def close(self):
            self.open = False

    memory = Memory()
    every, third = (config(log_every=n) for n in (1, 3))
    loop.run(every, tmp_path / "every", MESH)
    with pytest.raises(processes.Interrupted):
        loop.run(third, tmp_path / "third", MESH, stopping=StopAt(2))
    loop.run(third, tmp_path / "third", MESH, trackers=lambda: [memory])
    each, means = (log.read(tmp_path / n / "metrics.jsonl") for n in ("every", "third"))
    assert [line["step"] for line in means] == [3, 6]
    for i, line in enumerate(means):
        for name in line.keys() - {"step"}:
            want = np.mean([one[name] for one in each[3 * i : 3 * i + 3]])
            np.testing.assert_allclose(line[name], want, rtol=1e-12, err_msg=name)
    waits = [line.pop("time/data_wait") for line in memory.lines]
    assert memory.lines == means and not memory.open
    assert all(0 <= wait <= 1 for wait in waits)


def test_tensorboard_is_told_what_is_logged(tmp_path):
    pytest.importorskip("tensorboardX", reason="pip install '.[tensorboard]'")
    [tracker] = trackers.started(["tensorboard"], tmp_path, "stage", {"a": 1})
    tracker.write_scalars(5, {"train/loss": 0.25})
    tracker.close()
    [file] = (tmp_path / "tensorboard" / "stage").iterdir()
    assert b"train/loss" in file.read_bytes()


def test_wandb_works_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="pip install '.[wandb]'")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    [tracker] = trackers.started(["wandb"], tmp_path, "stage", {"a": 1})
    tracker.write_scalars(5, {"train/loss": 0.25})
    tracker.close()
    assert list((tmp_path / "wandb").glob("offline-run-*-stage/*.wandb"))


def test_a_tracker_that_is_not_there_is_named(monkeypatch):
    with pytest.raises(UnknownName, match=r"tracker 'tensorbord'.*'tensorboard'"):
        trackers.check(["tensorbord"])
    monkeypatch.setattr(trackers.WandB, "package", "no_such_package")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fairkd_jax\[wandb\]'"):
        trackers.check(["wandb"])


def test_a_run_restored_on_eight_devices_ends_where_one_device_ends(unbroken, tmp_path):
    with pytest.raises(processes.Interrupted):
        loop.run(config(), tmp_path, MESH, stopping=StopAt(3))
    loop.run(config(), tmp_path, sharding.make_mesh())
    # BatchNorm's and the loss's sums run in another order on eight devices.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        finished(tmp_path),
        unbroken[0],
    )


def damage(folder):
    for path in folder.rglob("*"):
        if path.is_file() and "/d/" in str(path):
            path.write_bytes(b"\x00" * path.stat().st_size)


# The storage layer drops the reads it had begun when the first one failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damaged", [1, 2])
def test_a_corrupt_checkpoint_falls_back_to_the_one_before_and_says_so(
    unbroken, tmp_path, caplog, damaged
):
    with pytest.raises(processes.Interrupted):
        loop.run(config(), tmp_path, MESH, stopping=StopAt(5))
    steps = sorted(tmp_path.glob("checkpoints/[0-9]*"), reverse=True)
    assert [int(s.name) for s in steps] == [5, 4]
    for step in steps[:damaged]:
        damage(step)
    with caplog.at_level("WARNING"):
        loop.run(config(), tmp_path, MESH)
    assert caplog.text.count("is broken") == damaged
    assert_equal(finished(tmp_path), unbroken[0])


def test_a_loss_that_is_not_finite_stops_and_names_the_step(tmp_path):
    wild = dataclasses.replace(config(), optim=Optim(learning_rate=1e30, clip_norm=0.0))
    with pytest.raises(loop.NotFinite, match=r"(loss|gradient_norm) is (nan|inf) at step \d"):
        loop.run(wild, tmp_path, MESH)
    assert not (tmp_path / "net").exists()


def test_the_best_validation_is_kept_and_survives_a_stop(tmp_path):
    values, options = [0.1, 0.7, 0.3], {"select": "val_worst_group", "eval_every": 2}
    kept = []

    def score(variables):
        kept.append(jax.device_get(variables))
        value = values[(len(kept) - 1) % 3]
        return {"val/x": value}, (value, 0.5)

    watch = loop.Validation(score)
    loop.run(config(**options), tmp_path / "a", MESH, validation=watch)
    assert_equal(finished(tmp_path / "a"), kept[1])
    lines = [v for v in log.read(tmp_path / "a" / "metrics.jsonl") if "selection" in v]
    assert [v["selection"] for v in lines] == values

    kept.clear()
    with pytest.raises(processes.Interrupted):
        loop.run(config(**options), tmp_path / "b", MESH, validation=watch, stopping=StopAt(5))
    loop.run(config(**options), tmp_path / "b", MESH, validation=watch)
    assert_equal(finished(tmp_path / "a"), finished(tmp_path / "b"))


def test_the_average_of_parameters_is_scored_and_kept_and_survives_a_stop(tmp_path):
    path, seen = [], []

    def watch(to):
        return loop.Validation(lambda v: (to.append(jax.device_get(v)), ({"val/x": 0.0}, None))[1])

    loop.run(config(eval_every=1), tmp_path / "plain", MESH, validation=watch(path))
    loop.run(config(eval_every=1, ema=0.7), tmp_path / "a", MESH, validation=watch(seen))
    weights = 0.7 ** np.arange(len(path))[::-1]
    by_hand = jax.tree.map(
        lambda *x: np.tensordot(weights / weights.sum(), np.float64(x), 1), *path
    )
    assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(assert_close, seen[-1], by_hand)
    assert_equal(finished(tmp_path / "a"), seen[-1])
    jax.tree.map(assert_close, seen[0], path[0])

    with pytest.raises(processes.Interrupted):
        loop.run(config(ema=0.7), tmp_path / "b", MESH, stopping=StopAt(3))
    loop.run(config(ema=0.7), tmp_path / "b", MESH)
    assert_equal(finished(tmp_path / "a"), finished(tmp_path / "b"))


def test_patience_ends_a_run_also_one_that_was_stopped(tmp_path):
    values = [0.1, 0.7, 0.7, 0.3, 0.9, 0.9]  # equal is not better, though the later one is kept
    options = {"select": "val_worst_group", "eval_every": 1, "patience": 2}
    calls = []

    def score(variables):
        calls.append(jax.device_get(variables))
        return {"val/x": 0.0}, (values[len(calls) - 1], 0.5)

    watch = loop.Validation(score)
    assert loop.run(config(**options), tmp_path / "a", MESH, validation=watch) == 4
    assert_equal(finished(tmp_path / "a"), calls[2])
    for steps in (1, 3):
        calls.clear()
        folder, stop = tmp_path / f"{steps}", StopAt(steps)
        with pytest.raises(processes.Interrupted):
            loop.run(config(**options), folder, MESH, validation=watch, stopping=stop)
        assert loop.run(config(**options), folder, MESH, validation=watch) == 4
        assert_equal(finished(tmp_path / "a"), finished(folder))


@pytest.mark.parametrize(
    "sampler, epochs, steps",
    [("natural", 2, None), ("natural", 0.01, 1), ("subsampled_groups", 1.5, None)],
)
def test_epochs_are_steps_by_what_is_drawn(sampler, epochs, steps):
    data = dataclasses.replace(DIGITS, sampler=sampler)
    given = dataclasses.replace(config(steps=Train().steps, epochs=epochs), data=data)
    split = pipeline.open_data(data).train
    examples = len(split) if sampler == "natural" else min(split.counts()) * split.counts().size
    found = loop.settled(given).train
    assert found.steps == (steps or -(-epochs * examples // 16)) and found.epochs == 0
    assert loop.settled(config()) == config()


def test_layers_that_are_frozen_do_not_move(tmp_path):
    only_head = config(trainable="nets/student/head/.*", deterministic=True)
    frozen = dataclasses.replace(only_head, debias={"name": "erm"})
    loop.run(frozen, tmp_path, MESH)
    net = loop.net_of(DIGITS, NET)
    before, after = jax.device_get(net.init(net_key(3, 0))), finished(tmp_path)
    assert np.any(before["params"].pop("head")["kernel"] != after["params"].pop("head")["kernel"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), before, after)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"debias": {"name": "group_drw"}}, "'group_drw'.*group_dro"),
        ({"debias": {"name": "erm", "sharpness": 1.0}}, "'sharpness'"),
        ({"distill": ({"name": "logits"},)}, "needs a teacher"),
        ({"mix": Mix(scope="all")}, "mix.scope 'all'.*task, total"),
        ({"model": {"name": "resnet", "preset": "tini"}}, "'tini'.*'tiny'"),
        ({"model": {"name": "bert", "preset": "tiny"}}, "view.*'wordpiece'.*image"),
        ({"data": Data(set={"name": "colored_digit"})}, "'colored_digit'.*'colored_digits'"),
        ({"data": dataclasses.replace(DIGITS, sampler="balanced")}, "sampler 'balanced'"),
        ({"data": dataclasses.replace(DIGITS, split="tset")}, "split.*'tset'.*'test'"),
        ({"optim": Optim(name="adm")}, "optim.name 'adm'.*'adam'.*adamw.*sgd"),
        ({"optim": Optim(schedule="step")}, "optim.schedule 'step'"),
        ({"train": Train(steps=-1)}, "steps"),
        ({"train": Train(steps=0, select="val_average")}, "steps = 0"),
        ({"train": Train(trainable="nets/student/haed/.*")}, "'nets/student/haed.*matches none"),
        ({"optim": Optim(rates={"nets/student/haed/.*": 2.0})}, "'nets/student/haed.*matches none"),
        ({"train": Train(accumulate=2)}, "couples"),
        ({"train": Train(steps=7, epochs=2)}, "epochs = 2 and train.steps = 7: one says how long"),
        ({"train": Train(epochs=-1)}, "epochs = -1"),
        ({"train": Train(patience=2, eval_every=1)}, "patience = 2.*'last'"),
        ({"train": Train(patience=2, select="loss")}, "patience = 2.*eval_every = 0"),
        ({"train": Train(label_smoothing=-0.1)}, "train.label_smoothing = -0.1"),
        ({"train": Train(ema=1.0)}, "train.ema = 1.0"),
        (
            {
                "data": Data(set={"name": "colored_digits", "correlation": 1.0}),
                "debias": {"name": "group_dro"},
            },
            "every group; groups .* are empty",
        ),
    ],
)
def test_what_cannot_work_fails_before_training(changes, message):
    wrong = dataclasses.replace(config(), **changes)
    with pytest.raises(ValueError, match=message):
        loop.check(wrong, {})


@pytest.mark.parametrize("change", ["mixup", "image"])
def test_a_table_of_the_teacher_is_refused_where_inputs_change(change):
    views = {"image": {"name": "image", "flip": change == "image"}}
    changing = dataclasses.replace(
        config(),
        debias={"name": "mixup" if change == "mixup" else "erm"},
        distill=({"name": "logits"},),
        data=dataclasses.replace(DIGITS, views=views),
    )
    with pytest.raises(ValueError, match=f"'{change}'.*the teacher must run live"):
        loop.check(changing, {"teacher": None})
    loop.check(changing, {"teacher": loop.net_of(DIGITS, NET)})


def test_rates_reach_every_net_and_the_methods_own_parameters():
    rates = {"nets/biased/.*": 0.5, "nets/student/head/.*": 2.0}
    loop.check(dataclasses.replace(config(), optim=Optim(rates=rates, layer_decay=0.9)), {})
    dann = dataclasses.replace(config(), debias={"name": "dann"})
    loop.check(dataclasses.replace(dann, optim=Optim(rates={"debias/.*": 0.1})), {})


def test_an_empty_error_set_fails_before_training(tmp_path):
    opened = pipeline.open_data(DIGITS)
    identity = opened.train.columns["id"]
    write_table(tmp_path / "t", identity, {"mistake": np.zeros(len(identity), np.float32)}, {})
    jtt = dataclasses.replace(config(), debias={"name": "jtt"})
    inputs = loop.Inputs(tables={"mistakes": read_table(tmp_path / "t")})
    with pytest.raises(ValueError, match="error set"):
        loop.run(jtt, tmp_path, MESH, inputs)


@pytest.mark.parametrize("schedule", optim.SCHEDULES)
def test_the_learning_rate_rises_then_follows_its_schedule(schedule):
    rates = optim.learning_rates(Optim(learning_rate=2.0, schedule=schedule, warmup=0.2), 10)
    np.testing.assert_allclose(rates[:3], [0.0, 1.0, 2.0])
    assert rates.dtype == np.float32 and len(rates) == 10
    last = {"constant": 2.0, "linear": 0.25, "cosine": 2 * (1 + np.cos(np.pi * 7 / 8)) / 2}
    np.testing.assert_allclose(rates[-1], last[schedule], rtol=1e-5)


def test_a_method_that_sees_no_attributes_is_given_none(monkeypatch, tmp_path):
    seen = []
    original = Debiaser.__call__

    def spy(self, terms, outputs, batch, *rest):
        seen.append(set(batch))
        return original(self, terms, outputs, batch, *rest)

    monkeypatch.setattr(Debiaser, "__call__", spy)
    erm = dataclasses.replace(config(steps=1), debias={"name": "erm"})
    # A learning rate of its own kind of optimizer, so that no earlier trace is reused.
    loop.run(dataclasses.replace(erm, optim=Optim(name="sgd")), tmp_path, MESH)
    assert seen and all(not {"group", "attribute"} & names for names in seen)


def test_no_step_leaves_the_weights_it_starts_from(tmp_path):
    net = loop.net_of(DIGITS, NET)
    start = jax.jit(net.init)(jax.random.key(7))
    loop.run(config(steps=0), tmp_path, MESH, loop.Inputs(start=start))
    assert_equal(finished(tmp_path), jax.device_get(start))
    assert log.read(tmp_path / "metrics.jsonl") == []


def test_metrics_are_lines_of_json(unbroken):
    assert [line["step"] for line in unbroken[1]] == [2, 4, 6]
    assert {"train/loss", "train/accuracy", "train/debias/mean_weight"} <= set(unbroken[1][0])
    json.dumps(unbroken[1])
