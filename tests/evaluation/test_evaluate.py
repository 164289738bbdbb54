"""Running a net over a split: right counts, one trace, any placement; columns in order."""

import dataclasses
from typing import ClassVar

import jax
import numpy as np
import pytest
from flax import nnx

from fairkd_jax.data.dataset import Info
from fairkd_jax.data.tables import COLUMNS
from fairkd_jax.evaluation import evaluate as module
from fairkd_jax.evaluation.evaluate import evaluate, predict_columns
from fairkd_jax.models.net import Architecture, Net
from fairkd_jax.registry import UnknownName
from fairkd_jax.sharding import make_mesh, put_batch, put_replicated
from fairkd_jax.types import Outputs

WIDTH, CLASSES, ATTRIBUTES = 5, 3, 2
NAMES = ("a", "b", "c")
INFO = Info(NAMES, ("x", "y"), ((True, False),) * 3, "", "")
TRACES = []


class Linear(nnx.Module):
    """Notes each trace."""

    def __init__(self, num_classes: int, rngs: nnx.Rngs):
        self.head = nnx.Linear(WIDTH, num_classes, rngs=rngs)

    def __call__(self, inputs, tape):
        TRACES.append(tape.train)
        x = tape("features", inputs["x"])
        return Outputs(logits=self.head(x), features=x)


@dataclasses.dataclass(frozen=True)
class LinearArchitecture(Architecture):
    view: ClassVar[str] = "vector"
    presets: ClassVar[dict] = {}
    name: str = "linear"

    def fit(self, facts):
        return self

    def module(self, num_classes, rngs):
        return Linear(num_classes, rngs)


def net_of(name: str) -> Net:
    """Nets of different names share no compiled program."""
    return Net(LinearArchitecture(name), CLASSES, "vector")


def batches_of(n: int, size: int, seed: int = 0) -> list[dict]:
    """The last batch is padded; ids run backwards."""
    random = np.random.default_rng(seed)
    rows = -(-n // size) * size
    label = random.integers(0, CLASSES, rows).astype(np.int32)
    attribute = random.integers(0, ATTRIBUTES, rows).astype(np.int32)
    columns = {
        "label": label,
        "attribute": attribute,
        "group": label * ATTRIBUTES + attribute,
        "id": np.arange(rows, 0, -1, dtype=np.int32),
        "real": (np.arange(rows) < n).astype(np.float32),
    }
    x = random.normal(size=(rows, WIDTH)).astype(np.float32)
    x[n:] = np.nan
    return [
        {name: c[at : at + size] for name, c in columns.items()}
        | {"views": {"vector": {"x": x[at : at + size]}}, "tables": {}}
        for at in range(0, rows, size)
    ]


def expected(net: Net, variables: dict, batches: list[dict]) -> np.ndarray:
    head = variables["params"]["head"]
    want = np.zeros((CLASSES * ATTRIBUTES, CLASSES), int)
    for batch in batches:
        logits = batch["views"]["vector"]["x"] @ head["kernel"] + head["bias"]
        for z, group, real in zip(logits, batch["group"], batch["real"]):
            if real:
                want[group, np.argmax(z)] += 1
    return want


def test_counts_and_one_trace_over_evaluations():
    net, batches = net_of("counts"), batches_of(150, 8)  # more batches than are kept in flight
    assert len(batches) > module.AHEAD
    TRACES.clear()
    for seed in range(3):
        variables = net.init(jax.random.key(seed))
        sums = evaluate(net, variables, iter(batches), info=INFO, label_names=NAMES)
        np.testing.assert_array_equal(sums.predicted, expected(net, variables, batches))
        assert sums.predicted.dtype == np.int64 and np.isfinite(sums.loss).all()
    assert TRACES == [False]


def test_batch_size_does_not_show():
    net = net_of("sizes")
    variables = net.init(jax.random.key(0))
    one, other = (
        evaluate(net, variables, batches, info=INFO, label_names=NAMES)
        for batches in (batches_of(96, 32), batches_of(96, 48))
    )
    np.testing.assert_array_equal(one.predicted, other.predicted)
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-5)


def test_eight_devices_give_what_one_gives():
    net, batches, mesh = net_of("devices"), batches_of(37, 16), make_mesh(fsdp=2)
    variables = net.init(jax.random.key(0))
    one = evaluate(net, variables, batches, info=INFO, label_names=NAMES)
    eight = evaluate(
        net,
        put_replicated(variables, mesh),
        batches,
        info=INFO,
        label_names=NAMES,
        put=lambda batch: put_batch(batch, mesh),
    )
    for name, x in vars(one).items():
        np.testing.assert_allclose(getattr(eight, name), x, rtol=1e-5, err_msg=name)


def test_labels_that_do_not_match_fail_before_a_batch_is_made():
    def never():
        raise AssertionError("a batch was made")
        yield

    net = net_of("labels")
    with pytest.raises(ValueError, match=r"do not match"):
        evaluate(net, {}, never(), info=INFO, label_names=("a", "b", "z"))


def test_columns_are_those_of_real_rows_in_order():
    net, mesh = net_of("columns"), make_mesh()
    variables, batches = net.init(jax.random.key(0)), batches_of(37, 16)
    ids, columns = predict_columns(net, variables, batches, ("logits",))
    np.testing.assert_array_equal(ids, np.arange(48, 11, -1))
    head = variables["params"]["head"]
    x = np.concatenate([b["views"]["vector"]["x"] for b in batches])[:37]
    np.testing.assert_allclose(columns["logits"], x @ head["kernel"] + head["bias"], atol=1e-5)
    ids_8, columns_8 = predict_columns(
        net,
        put_replicated(variables, mesh),
        batches,
        ("logits",),
        put=lambda batch: put_batch(batch, mesh),
    )
    np.testing.assert_array_equal(ids, ids_8)
    np.testing.assert_allclose(columns["logits"], columns_8["logits"], atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("devices", [1, 8])
def test_examples_whose_logits_are_not_finite_are_named(bad, devices):
    net, batches = net_of("diverged"), batches_of(37, 16)
    for batch, row in ((batches[0], 3), (batches[2], 1)):
        batch["views"]["vector"]["x"][row, 0] = bad
    variables, put = net.init(jax.random.key(0)), lambda batch: batch
    if devices == 8:
        mesh = make_mesh()
        variables, put = put_replicated(variables, mesh), lambda batch: put_batch(batch, mesh)
    told = r"logits .* on 2 of 37 examples, ids 45, 15: it has diverged"
    with pytest.raises(FloatingPointError, match=told):
        evaluate(net, variables, batches, info=INFO, label_names=NAMES, put=put)
    for columns in COLUMNS:  # a mistake and the class of the largest are numbers even then
        with pytest.raises(FloatingPointError, match=told):
            predict_columns(net, variables, batches, (columns,), put)


def test_a_column_that_is_not_finite_is_named(monkeypatch):
    spoilt = lambda outputs, batch: outputs.features / (batch["id"] > 20)[:, None]  # noqa: E731
    monkeypatch.setitem(COLUMNS, "spoilt", spoilt)
    net = net_of("column")
    variables = net.init(jax.random.key(0))
    told = r"spoilt .* on 9 of 37 examples, ids 20, 19, 18, "
    with pytest.raises(FloatingPointError, match=told):
        predict_columns(net, variables, batches_of(37, 16), ("logits", "spoilt"))


def test_an_unknown_column_is_named():
    with pytest.raises(UnknownName, match=r"logitz.*Did you mean 'logits'"):
        predict_columns(net_of("unknown"), {}, [], ("logitz",))


@pytest.mark.parametrize("devices", [1, 8])
def test_what_is_decided_is_counted_in_the_place_of_the_largest(devices):
    net, parts = net_of("decided"), dataclasses.replace(INFO, subpopulations=("p", "q"))
    variables, batches = net.init(jax.random.key(0)), batches_of(90, 16)
    for batch in batches:
        batch["member"] = np.stack([batch["id"] % 2 == 0, batch["id"] % 3 == 0], axis=1)
    mesh, shown = make_mesh(devices=jax.devices()[:devices]), []

    def run(decide):
        put = put_replicated(variables, mesh), iter(batches)
        place = lambda batch: put_batch(batch, mesh)  # noqa: E731
        return evaluate(net, *put, info=parts, label_names=NAMES, put=place, decide=decide)

    def largest(rows):
        shown.extend(rows["id"].tolist())
        return np.argmax(rows["log_probs"], axis=1)

    plain, same, last = run(None), run(largest), run(lambda rows: np.full(len(rows["id"]), 2))
    assert sorted(shown) == sorted(i for b in batches for i in b["id"][b["real"] > 0].tolist())
    for name, value in vars(plain).items():
        np.testing.assert_array_equal(getattr(same, name), value, err_msg=name)
    np.testing.assert_array_equal(last.predicted[:, 2], plain.predicted.sum(axis=1))
    confusion = last.subpopulations
    np.testing.assert_array_equal(confusion[..., 2], plain.subpopulations.sum(axis=2))
    np.testing.assert_array_equal(last.loss, plain.loss)
    np.testing.assert_array_equal(last.bin_correct, plain.bin_correct)
