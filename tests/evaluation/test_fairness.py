"""Fairness numbers from counts: by hand, against scikit-learn, and undefined where they are."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from fairkd_jax.data.dataset import Info
from fairkd_jax.evaluation import fairness
from fairkd_jax.evaluation.sums import Sums
from fairkd_jax.registry import UnknownName

pytestmark = pytest.mark.quick

BIRDS = Info(("land", "water"), ("on land", "on water"), ((True, False), (False, True)), "", "")


def sums_of(predicted) -> Sums:
    """Sums with the given counts [G, C], everything else 0."""
    predicted = np.asarray(predicted)
    return Sums.zero(*predicted.shape).replace(predicted=predicted)


def test_by_hand():
    sums = sums_of([[90, 10], [5, 15], [8, 2], [0, 70]]).replace(loss=np.array([50, 40, 5, 5.0]))
    got = fairness.metrics(sums, BIRDS, train_counts=np.array([60, 20, 20, 0]))
    assert fairness.group_counts(sums).tolist() == [100, 20, 10, 70]
    assert got["accuracy"] == got["acc_avg"] == pytest.approx(167 / 200)
    assert got["adj_acc_avg"] == pytest.approx(0.6 * 0.9 + 0.2 * 0.25 + 0.2 * 0.2)
    assert got["worst_group_accuracy"] == pytest.approx(0.2)
    assert fairness.worst_group(sums, BIRDS) == ("water, on land", 10)
    assert got["acc_group/land, on water"] == pytest.approx(0.25)
    assert got["mean_group_accuracy"] == pytest.approx((0.9 + 0.25 + 0.2 + 1) / 4)
    assert got["worst_class_accuracy"] == pytest.approx(95 / 120)
    assert got["gap_aligned"] == pytest.approx(160 / 170 - 7 / 30)
    assert got["gap_worst_group"] == pytest.approx(167 / 200 - 0.2)
    assert got["gap_attribute/on land"] == pytest.approx(0.9 - 0.2)
    assert got["gap_attribute/on water"] == pytest.approx(0.25 - 1)
    assert got["loss"] == pytest.approx(0.5)
    assert got["demographic_parity_difference"] == pytest.approx(85 / 90 - 12 / 110)
    assert got["equal_opportunity_difference"] == pytest.approx(1 - 0.2)
    assert got["equalized_odds_difference"] == pytest.approx(1 - 0.2)
    assert fairness.gap_id_ood(acc_id=0.9, acc_ood=0.6) == pytest.approx(0.3)


def test_subpopulations_stand_beside_groups_and_never_among_them():
    """As WILDS scores CivilComments: the worst of identities by label, which overlap."""
    names = ("y:0_male:1", "y:1_male:1", "y:0_muslim:1", "y:1_muslim:1")
    info = dataclasses.replace(BIRDS, subpopulations=names)
    parts = np.zeros((4, 2, 2), int)
    parts[0, 0], parts[1, 1], parts[2, 0] = (45, 5), (3, 7), (8, 8)
    sums = sums_of([[90, 10], [5, 15], [8, 2], [0, 70]]).replace(subpopulations=parts)
    got = fairness.metrics(sums, info)
    assert got["acc_subpopulation/y:0_male:1"] == pytest.approx(0.9)
    assert got["acc_subpopulation/y:0_muslim:1"] == pytest.approx(0.5)
    assert np.isnan(got["acc_subpopulation/y:1_muslim:1"])  # empty: no 0
    assert got["worst_subpopulation_accuracy"] == got["acc_wg"] == pytest.approx(0.5)
    assert fairness.worst_subpopulation(sums, info) == ("y:0_muslim:1", 16)
    plain = fairness.metrics(sums_of(sums.predicted), BIRDS)
    assert {k: v for k, v in got.items() if k in plain} == plain  # groups as before
    assert {*got} - {*plain} == {"worst_subpopulation_accuracy", "acc_wg"} | {
        f"acc_subpopulation/{name}" for name in names
    }
    assert fairness.selection_value("worst_subpopulation_accuracy", got) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="not those of 4 subpopulations"):
        fairness.metrics(sums_of(sums.predicted), info)
    none = sums.replace(subpopulations=np.zeros((4, 2, 2), int))
    assert fairness.worst_subpopulation(none, info) == ("", 0)


def test_against_scikit_learn():
    random = np.random.default_rng(0)
    names = tuple("abcde")
    predicted = random.integers(0, 9, (15, 5))
    info = Info(names, ("x", "y", "z"), ((True, False, False),) * 5, "", "")
    true = np.repeat(np.arange(15) // 3, predicted.sum(1))
    guess = np.concatenate([np.repeat(np.arange(5), row) for row in predicted])
    got = fairness.metrics(sums_of(predicted), info)
    assert got["macro_f1"] == pytest.approx(f1_score(true, guess, average="macro"))
    assert got["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(true, guess))


def test_with_more_labels_each_is_positive_in_turn():
    info = Info(("a", "b", "c"), ("x", "y"), ((True, False),) * 3, "", "")
    got = fairness.metrics(
        sums_of([[8, 2, 0], [10, 0, 0], [0, 10, 0], [0, 10, 0], [0, 5, 5], [0, 0, 10]]), info
    )
    assert got["demographic_parity_difference"] == pytest.approx(7 / 30)  # "b": 17/30 - 10/30
    assert got["equal_opportunity_difference"] == pytest.approx(0.5)  # "c"
    assert got["equalized_odds_difference"] == pytest.approx(0.5)


def test_what_has_no_examples_is_nan():
    sums = sums_of([[9, 1], [0, 0], [3, 7], [0, 10]])
    got = fairness.metrics(sums, BIRDS, train_counts=np.array([1, 1, 1, 1]))
    assert np.isnan(got["acc_group/land, on water"])
    assert got["worst_group_accuracy"] == pytest.approx(0.7)  # over groups that have examples
    assert np.isnan(got["adj_acc_avg"])  # training had examples there: their accuracy is unknown
    assert np.isnan(got["gap_attribute/on water"])
    assert np.isnan(got["equalized_odds_difference"])
    assert got["equal_opportunity_difference"] == pytest.approx(0.3)
    trained_elsewhere = fairness.metrics(sums, BIRDS, train_counts=np.array([1, 0, 1, 0]))
    assert trained_elsewhere["adj_acc_avg"] == pytest.approx((0.9 + 0.7) / 2)


def test_no_examples_at_all():
    sums = Sums.zero(4, 2)
    assert all(np.isnan(v) for v in fairness.metrics(sums, BIRDS).values())
    assert fairness.worst_group(sums, BIRDS) == ("", 0)


def test_a_label_never_predicted_counts_one_never_seen_does_not():
    info = Info(("a", "b", "c"), ("x",), ((True,),) * 3, "", "")
    got = fairness.metrics(sums_of([[4, 0, 0], [4, 0, 0], [0, 0, 0]]), info)
    assert got["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert np.isnan(got["acc_conflicting"]) and np.isnan(got["gap_aligned"])


def test_calibration_error():
    sums = sums_of([[10, 0], [0, 0], [0, 0], [0, 10]]).replace(
        bin_count=np.array([10, 10]),
        bin_confidence=np.array([4.0, 9.0]),
        bin_correct=np.array([6, 8]),
    )
    assert fairness.metrics(sums, BIRDS)["ece"] == pytest.approx(0.5 * 0.2 + 0.5 * 0.1)


def test_sums_of_another_set_are_refused():
    with pytest.raises(ValueError, match=r"\(6, 3\).*'land', 'water'"):
        fairness.metrics(Sums.zero(6, 3), BIRDS)


def test_a_net_that_diverged_has_no_accuracy():
    sums = sums_of([[9, 1], [1, 1], [3, 7], [0, 10]]).replace(not_finite=np.array([0, 3, 0, 0]))
    with pytest.raises(FloatingPointError, match=r"not finite for 3 of 35 examples"):
        fairness.metrics(sums, BIRDS)


def test_sums_on_a_device_will_do():
    device = sums_of(jnp.array([[9, 1], [1, 1], [3, 7], [0, 10]]))
    assert fairness.metrics(device, BIRDS)["acc_group/land, on land"] == pytest.approx(0.9)


def test_selection_rules():
    got = fairness.metrics(sums_of([[90, 10], [5, 15], [8, 2], [0, 70]]), BIRDS)
    assert fairness.selection_value("val_average", got) == got["acc_avg"]
    assert fairness.selection_value("val_worst_group", got) == got["worst_group_accuracy"]
    assert fairness.selection_value("val_worst_class", got) == got["worst_class_accuracy"]
    assert fairness.selection_value("macro_f1", got) == got["macro_f1"]
    assert fairness.selection_value("brier_score", got) == -got["brier_score"]
    assert fairness.selection_value("gap_aligned", got) == -abs(got["gap_aligned"])
    for rule in ("last", "val_avarage"):
        with pytest.raises(UnknownName, match=rule):
            fairness.selection_value(rule, got)
