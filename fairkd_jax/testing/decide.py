"""What every decision must keep, whoever wrote it. `plugin` is its config."""

import dataclasses
import json

import numpy as np
import pytest

from fairkd_jax import registry
from fairkd_jax.data.dataset import Info
from fairkd_jax.evaluation import decision

LABELS, ATTRIBUTES, ROWS = 2, 3, 240


@pytest.fixture
def method(plugin):
    return registry.build("decide", plugin)


def info(labels: int = LABELS, attributes: int = ATTRIBUTES) -> Info:
    aligned = tuple(tuple(y == a for a in range(attributes)) for y in range(labels))
    return Info(tuple("uvwx"[:labels]), tuple("abcd"[:attributes]), aligned, "none", "made here")


def examples(seed: int = 0) -> dict[str, np.ndarray]:
    """Log-probabilities that know something of the label, of one attribute more than of another."""
    random = np.random.default_rng(seed)
    label, attribute = (random.integers(0, n, ROWS).astype(np.int32) for n in (LABELS, ATTRIBUTES))
    logits = random.normal(size=(ROWS, LABELS)).astype(np.float32)
    logits[np.arange(ROWS), label] += 0.5 + attribute
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    identity = random.permutation(1000)[:ROWS].astype(np.int32)
    return {"log_probs": log_probs, "label": label, "attribute": attribute, "id": identity}


def parameters_of(method, rows):
    return decision.fitted(method, rows["log_probs"], rows["label"], rows["attribute"])


def test_it_gives_classes_and_the_same_at_every_call(method):
    rows, others = examples(), examples(1)
    counts = np.zeros((LABELS, ATTRIBUTES), int)
    np.add.at(counts, (rows["label"], rows["attribute"]), 1)
    decision.check(method, info(), counts, info())
    parameters = parameters_of(method, rows)
    assert json.loads(json.dumps(parameters)) == parameters == parameters_of(method, rows)
    found = decision.decided(method, parameters, others, 5)
    assert found.shape == (ROWS,) and found.dtype.kind == "i"
    assert {*found.tolist()} <= {*range(LABELS)}
    np.testing.assert_array_equal(found, decision.decided(method, parameters, others, 5))


def test_the_order_of_examples_does_not_show(method):
    rows, order = examples(), np.random.default_rng(2).permutation(ROWS)
    shuffled = {k: v[order] for k, v in rows.items()}
    parameters = parameters_of(method, rows)
    assert parameters_of(method, shuffled) == parameters
    found = decision.decided(method, parameters, rows, 5)
    np.testing.assert_array_equal(decision.decided(method, parameters, shuffled, 5), found[order])


def test_it_decides_row_by_row(method):
    rows, parameters = examples(1), parameters_of(method, examples())
    found = decision.decided(method, parameters, rows, 5)
    parts = [{k: v[at] for k, v in rows.items()} for at in (slice(0, 0), slice(0, 7), slice(7, 99))]
    apart = [decision.decided(method, parameters, part, 5) for part in parts]
    np.testing.assert_array_equal(np.concatenate(apart), found[:99])


def test_ids_and_seeds_change_what_is_drawn_alone(method):
    """Whatever was drawn, what is decided differs no more than its chances allow."""
    rows, parameters = examples(1), parameters_of(method, examples())
    drawn = {"log_probs": rows["log_probs"], "attribute": rows["attribute"]}
    lots = np.array(
        [
            decision.decided(method, parameters, drawn | {"id": rows["id"] + 1000 * i}, i % 2)
            for i in range(20)
        ]
    )
    log_probs = np.float64(rows["log_probs"])
    shown = rows["attribute"] if method.sees_attributes else np.zeros(ROWS, np.int32)
    ends = [
        method.apply(parameters, log_probs, shown, np.full(ROWS, chance))
        for chance in (0.0, 0.5, 1 - 1e-12)
    ]
    sure = (ends[0] == ends[1]) & (ends[1] == ends[2])
    assert (lots[:, sure] == ends[0][sure]).all()


def test_it_sees_attributes_only_where_it_says_so(method):
    rows, parameters = examples(1), parameters_of(method, examples())
    other = rows | {"attribute": (rows["attribute"] + 1) % ATTRIBUTES}
    found, changed = (decision.decided(method, parameters, some, 5) for some in (rows, other))
    assert method.sees_attributes or np.array_equal(found, changed)
    counts = np.full((LABELS, ATTRIBUTES), 9)
    if method.sees_attributes:
        with pytest.raises(ValueError, match=r"reads the attribute .*'a', 'b', 'c'.*'a', 'b'\]"):
            decision.check(method, info(), counts, info(attributes=2))


def test_what_is_extreme_is_decided_too(method):
    """Certain answers, a validation split that no net errs on, and equal scores."""
    rows = examples()
    logits = np.where(np.arange(LABELS) == rows["label"][:, None], 0.0, -1e4)
    same = np.full((ROWS, LABELS), -np.log(LABELS))
    for log_probs in (np.float32(logits), np.float32(same)):
        sure = rows | {"log_probs": log_probs}
        parameters = parameters_of(method, sure)
        assert len(decision.decided(method, parameters, sure, 5)) == ROWS


def test_it_is_a_frozen_dataclass_of_options(method, plugin):
    assert dataclasses.is_dataclass(method) and method == registry.build("decide", plugin)
    hash(method)
