"""Counts by group: right, addable, masked, exact, the same on one device and on eight."""

import jax
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from fairkd_jax.data.dataset import Info
from fairkd_jax.evaluation.sums import Sums, count, label_map
from fairkd_jax.sharding import make_mesh, put_batch

pytestmark = pytest.mark.quick

LABELS, ATTRIBUTES = 3, 2
GROUPS = LABELS * ATTRIBUTES
SIZES = {"num_groups": GROUPS, "num_labels": LABELS}
SAME = np.arange(LABELS, dtype=np.int32)


def random_batch(n: int, seed: int = 0) -> tuple[np.ndarray, dict]:
    random = np.random.default_rng(seed)
    label, attribute = random.integers(0, LABELS, n), random.integers(0, ATTRIBUTES, n)
    batch = {
        "label": label.astype(np.int32),
        "group": (label * ATTRIBUTES + attribute).astype(np.int32),
        "real": np.ones(n, np.float32),
    }
    return (3 * random.normal(size=(n, LABELS))).astype(np.float32), batch


def rows(logits: np.ndarray, batch: dict, at: slice) -> tuple[np.ndarray, dict]:
    return logits[at], {name: x[at] for name, x in batch.items()}


def assert_equal(got: Sums, want: Sums):
    """Counts exactly, float32 sums up to the order of summation."""
    for name, x in vars(want).items():
        kind = np.asarray(x).dtype.kind
        np.testing.assert_allclose(
            getattr(got, name), x, rtol=0 if kind == "i" else 1e-5, atol=0, err_msg=name
        )


def info(*labels: str, **collapses: tuple[str, ...]) -> Info:
    return Info(labels, ("a", "b"), ((True, False),) * len(labels), "", "", collapses=collapses)


def test_counts_are_those_of_a_loop():
    logits, batch = random_batch(200)
    sums = count(logits, batch, SAME, **SIZES)
    probs = np.exp(logits - logits.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    predicted, loss = np.zeros((GROUPS, LABELS), int), np.zeros(GROUPS)
    bins = np.zeros((3, 15))
    for z, p, y, g in zip(logits, probs, batch["label"], batch["group"]):
        predicted[g, np.argmax(z)] += 1
        loss[g] -= np.log(p[y])
        at = int(np.ceil(p.max() * 15)) - 1
        bins[:, at] += 1, p.max(), np.argmax(z) == y
    np.testing.assert_array_equal(sums.predicted, predicted)
    np.testing.assert_allclose(sums.loss, loss, rtol=1e-5)
    np.testing.assert_array_equal(sums.bin_count, bins[0])
    np.testing.assert_allclose(sums.bin_confidence, bins[1], rtol=1e-5)
    np.testing.assert_array_equal(sums.bin_correct, bins[2])


def test_padding_changes_nothing_even_if_it_is_nan():
    logits, batch = random_batch(37)
    want = count(logits, batch, SAME, **SIZES)
    logits = np.concatenate([logits, np.full((11, LABELS), np.nan, np.float32)])
    batch = {name: np.pad(x, (0, 11)) for name, x in batch.items()}
    assert_equal(count(logits, batch, SAME, **SIZES), want)


def test_parts_add_up_to_the_whole():
    logits, batch = random_batch(90)
    parts = [slice(0, 1), slice(1, 50), slice(50, 90)]
    total = Sums.zero(GROUPS, LABELS)
    for at in parts:
        total = total + jax.device_get(count(*rows(logits, batch, at), SAME, **SIZES))
    assert total.predicted.dtype == np.int64 and total.loss.dtype == np.float64
    assert_equal(total, count(logits, batch, SAME, **SIZES))


def test_counts_stay_exact_where_float32_and_int32_do_not():
    one = jax.device_get(count(*random_batch(1), SAME, **SIZES))
    many = jax.tree.map(lambda x: x * np.asarray(2**30, x.dtype), one)
    total = Sums.zero(GROUPS, LABELS) + many + many + many + one
    assert total.predicted.sum() == total.bin_count.sum() == 3 * 2**30 + 1


def test_eight_devices_count_as_one():
    logits, batch = random_batch(64)
    batch["real"][-5:] = 0
    step = jax.jit(lambda z, b: count(z, b, SAME, **SIZES))
    placed = put_batch((logits, batch), make_mesh(fsdp=2))
    assert len(placed[0].sharding.device_set) == 8
    assert_equal(step(*placed), step(logits, batch))


def test_subpopulations_that_overlap_are_confusions_of_their_rows():
    """Against scikit-learn, row by row; on one device and on eight; padding and NaN left out."""
    names = ("all", "none", "even", "a few")
    logits, batch = random_batch(64)
    rows = np.arange(64)
    member = np.stack([rows >= 0, rows < 0, rows % 2 == 0, rows % 7 == 3], axis=1)
    batch |= {"member": member, "real": np.where(rows < 59, 1, 0).astype(np.float32)}
    logits[4] = np.nan
    sizes = SIZES | {"num_subpopulations": len(names)}
    sums = count(logits, batch, SAME, **sizes)
    kept = (batch["real"] > 0) & (rows != 4)
    for i, inside in enumerate(member.T):
        at = kept & inside
        guess = np.argmax(logits[at], axis=1)
        wanted = np.zeros((LABELS, LABELS), int)
        if at.any():
            wanted = confusion_matrix(batch["label"][at], guess, labels=SAME)
        np.testing.assert_array_equal(sums.subpopulations[i], wanted)
    by_label = np.reshape(sums.predicted, (LABELS, ATTRIBUTES, LABELS)).sum(axis=1)
    np.testing.assert_array_equal(sums.subpopulations[0], by_label)
    step = jax.jit(lambda z, b: count(z, b, SAME, **sizes))
    assert_equal(step(*put_batch((logits, batch), make_mesh(fsdp=2))), sums)
    sums = jax.device_get(sums)
    total = Sums.zero(GROUPS, LABELS, num_subpopulations=4) + sums + sums
    assert total.subpopulations.dtype == np.int64
    np.testing.assert_array_equal(total.subpopulations, 2 * sums.subpopulations)
    without = count(logits, {k: v for k, v in batch.items() if k != "member"}, SAME, **SIZES)
    assert without.subpopulations.shape == (0, LABELS, LABELS)
    assert_equal(without.replace(subpopulations=sums.subpopulations), sums)


def test_losses_are_finite_for_extreme_logits():
    _, batch = random_batch(3)
    logits = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [0, 0, 1e30]], np.float32)
    sums = count(logits, batch, SAME, **SIZES)
    assert np.isfinite(sums.loss).all() and np.isfinite(sums.bin_confidence).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38], ids=str)
def test_rows_that_are_not_finite_are_counted_apart(bad):
    """Not as class 0; 3e38 is a number, but its distance to -3e38, the loss, is none."""
    logits, batch = random_batch(50)
    broken = [0, 7, 30]
    spoilt, rest = logits.copy(), np.setdiff1d(np.arange(50), broken)
    spoilt[broken, 1], spoilt[broken, 2] = bad, -3e38
    got = count(spoilt, batch, SAME, **SIZES)
    want = count(*rows(logits, batch, rest), SAME, **SIZES)
    by_group = np.bincount(batch["group"][broken], minlength=GROUPS)
    np.testing.assert_array_equal(got.not_finite, by_group)
    assert_equal(got, want.replace(not_finite=by_group))
    batch["real"][broken] = 0
    assert_equal(count(spoilt, batch, SAME, **SIZES), want)


def test_labels_are_matched_by_name():
    assert label_map(("c", "a", "b"), info("a", "b", "c")).tolist() == [2, 0, 1]
    collapsing = info("entailment", "other", other=("neutral", "contradiction"))
    net = ("neutral", "entailment", "contradiction")
    assert label_map(net, collapsing).tolist() == [1, 0, 1]
    assert label_map(("other", "entailment"), collapsing).tolist() == [1, 0]


@pytest.mark.parametrize("net", [("a", "x"), ("a",), ("a", "b", "c")])
def test_labels_that_do_not_match_are_named(net):
    with pytest.raises(ValueError, match="do not match") as error:
        label_map(net, info("a", "b"))
    assert str(list(net)) in str(error.value) and "['a', 'b']" in str(error.value)


def test_collapsed_labels_are_predicted_first_and_summed_second():
    probs = np.array([[0.4, 0.3, 0.3], [0.1, 0.7, 0.2]], np.float32)
    batch = {
        "label": np.array([1, 1], np.int32),
        "group": np.array([1, 1], np.int32),
        "real": np.ones(2, np.float32),
    }
    sums = count(np.log(probs), batch, np.array([0, 1, 1]), num_groups=2, num_labels=2)
    assert sums.predicted.tolist() == [[0, 0], [1, 1]]
    np.testing.assert_allclose(sums.loss[1], -np.log(0.6) - np.log(0.9), rtol=1e-6)
    np.testing.assert_allclose(sums.squared_error[1], 2 * 0.4**2 + 2 * 0.1**2, rtol=1e-5)
    np.testing.assert_allclose(np.sum(sums.bin_confidence), 0.4 + 0.9, rtol=1e-6)
