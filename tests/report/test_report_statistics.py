"""Intervals, tests and aggregates: against oracles, by hand, and by how often they are right."""

import json
import math

import numpy as np
import pytest
import scipy.stats
from conftest import ORACLES

from fairkd_jax.report import statistics

pytestmark = pytest.mark.quick

TARGETS = {  # oracle key -> our number, from its inputs
    "bootstrap_bca_95": lambda i: statistics.bca_interval(i["x"], i["indices"]),
    "iqm": lambda i: statistics.interquartile_mean(i["scores"]),
    "iqm_ci95": lambda i: _ends(statistics.stratified_interval(i["scores"], i["indices"])),
}
for pair in "ab":
    TARGETS[f"paired_permutation_{pair}.two-sided"] = lambda i, pair=pair: (
        statistics.sign_flip_test(i[f"pair_u_{pair}"], i[f"pair_v_{pair}"])
    )
    TARGETS[f"paired_permutation_{pair}.statistic"] = lambda i, pair=pair: (
        statistics.difference(i[f"pair_u_{pair}"], i[f"pair_v_{pair}"]).value
    )


def _ends(estimate):
    return estimate.low, estimate.high


def _oracles():
    """(case, key) of every target that resamples or aggregates runs."""
    if ORACLES is None:
        return []
    found = []
    for path in sorted((ORACLES / "metrics").glob("*.json")):
        meta = json.loads(path.read_text())
        if "indices" in meta["inputs"]:
            found += [(path.stem, k) for k, e in meta["expected"].items() if e["role"] == "target"]
    return found


@pytest.mark.skipif(ORACLES is None, reason="no folder of reference numbers: set FAIRKD_ORACLES")
def test_oracles(capsys):
    missed, met = [], 0
    for case, key in _oracles():
        if key not in TARGETS:
            missed.append(f"{case}/{key}")
            continue
        meta = json.loads((ORACLES / "metrics" / f"{case}.json").read_text())["expected"][key]
        arrays = np.load(ORACLES / "metrics" / f"{case}.npz", allow_pickle=False)
        inputs = {k.removeprefix("in."): arrays[k] for k in arrays.files if k.startswith("in.")}
        want = arrays[f"out.{key}"]
        np.testing.assert_allclose(
            TARGETS[key](inputs), want, rtol=meta["rtol"], atol=meta["atol"], err_msg=key
        )
        met += 1
    with capsys.disabled():
        print(f"\n{met} targets met; not covered: {', '.join(missed)}")
    assert met


def test_interval_of_few_seeds_is_students(rng=np.random.default_rng(1)):
    values = rng.normal(0.5, 0.1, 6)
    estimate = statistics.over_seeds(values)
    want = scipy.stats.t.interval(0.95, 5, values.mean(), scipy.stats.sem(values))
    np.testing.assert_allclose(_ends(estimate), want)
    assert estimate.n == 6 and estimate.value == pytest.approx(values.mean())


def test_interval_is_right_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = [
        e.low <= 2 / 3 <= e.high
        for e in (statistics.over_seeds(rng.beta(6, 3, 6), (0.0, 1.0)) for _ in range(400))
    ]
    assert 0.92 <= np.mean(held) <= 0.98


def test_interval_of_many_seeds_is_the_bootstraps():
    values = np.random.default_rng(0).beta(1.5, 12, statistics.BOOTSTRAP_FROM)
    low, high = _ends(statistics.over_seeds(values))
    assert high - values.mean() > values.mean() - low  # skewed as the values are
    assert _ends(statistics.over_seeds(values)) == (low, high)  # and the same every time


def test_interval_stays_within_the_metric():
    estimate = statistics.over_seeds(np.array([0.0, 0.0, 0.2]), (0.0, 1.0))
    assert estimate.low == 0.0 and estimate.high < 1.0


@pytest.mark.parametrize(("values", "n"), [([], 0), ([math.nan], 0), ([0.4], 1)])
def test_no_interval_below_two_seeds(values, n):
    estimate = statistics.over_seeds(np.array(values, np.float64))
    assert estimate.n == n and math.isnan(estimate.low) and math.isnan(estimate.high)
    assert math.isnan(estimate.value) == (n == 0)


@pytest.mark.parametrize("n", [2, 6, 25])
def test_equal_seeds_give_no_interval_and_no_p(n):
    for value in (0.0, 0.5):
        estimate = statistics.over_seeds(np.full(n, value), (0.0, 1.0))
        assert estimate.value == value and estimate.n == n
        assert np.isnan(_ends(estimate)).all()
    under = np.linspace(0.1, 0.7, n)
    for second in (under, under + 0.1):  # equal differences, up to rounding
        assert np.isnan(_ends(statistics.difference(under, second))).all()
        assert math.isnan(statistics.sign_flip_test(under, second))
    for over in (under, 0.8 * under):
        estimate = statistics.ratio(over, under)
        assert estimate.value == pytest.approx(over[0] / under[0])
        assert np.isnan(_ends(estimate)).all()
    scores = np.tile([[0.1, -0.2, 0.3]], (n, 1))
    assert np.isnan(_ends(statistics.stratified_interval(scores))).all()


def test_small_differences_beyond_rounding_count():
    first = 0.5 + 1e-9 * np.arange(6)
    assert statistics.difference(first, np.full(6, 0.5)).low > 0


def test_pairs_with_an_undefined_half_are_left_out():
    first, second = np.array([0.6, 0.7, math.nan]), np.array([0.5, 0.5, 0.5])
    assert statistics.difference(first, second).n == 2
    assert statistics.difference(first, second).value == pytest.approx(0.15)
    assert statistics.ratio(first, second).value == pytest.approx(1.3)


def test_ratio_ends_are_where_the_paired_test_turns():
    rng = np.random.default_rng(2)
    under = rng.normal(0.7, 0.05, 7)
    over = 0.9 * under + rng.normal(0, 0.03, 7)
    for end in _ends(statistics.ratio(over, under)):
        assert scipy.stats.ttest_1samp(over - end * under, 0).pvalue == pytest.approx(0.05)


def test_ratio_to_nothing_is_undefined():
    noise = np.array([0.02, -0.03, 0.01, -0.02, 0.03])
    assert math.isnan(statistics.ratio(noise, noise + 0.001).low)
    assert math.isnan(statistics.ratio(noise, np.zeros(5)).value)
    assert math.isnan(statistics.ratio(noise, noise - 1).value)  # nor is there a share of a debt


def test_p_only_from_six_pairs_on():
    assert math.isnan(statistics.sign_flip_test(np.arange(1.0, 6.0)))
    assert statistics.sign_flip_test(np.arange(1.0, 7.0)) == pytest.approx(2 / 2**6)
    assert statistics.sign_flip_test(np.array([1.0, -1, 1, -1, 1, -1])) == pytest.approx(1.0)


def test_least_p_is_that_of_pairs_that_agree():
    for n in (6, 9):
        assert statistics.sign_flip_test(np.arange(1.0, n + 1)) == statistics.least_p(n)


def test_tasks_that_share_a_teacher_do_not_count_as_more_evidence():
    scores = np.random.default_rng(0).normal(size=(8, 1))
    one, twice = (statistics.stratified_interval(scores.repeat(k, axis=1)) for k in (1, 2))
    np.testing.assert_allclose(_ends(twice), _ends(one))


def test_holm_by_hand():
    corrected = statistics.holm([0.01, math.nan, 0.04, 0.03, 0.5])
    np.testing.assert_allclose(corrected, [0.04, math.nan, 0.09, 0.09, 0.5])
