"""Divergence against lost robustness: correlations against SciPy, clusters, reasons, the page."""

import io
import json
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import synthetic_study

from fairkd_jax.report import explain, html, records
from fairkd_jax.report.correlation import clusters_of, rank_correlation, spearman


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x, noise = np.random.default_rng(seed).normal(size=(2, n)).round(1)  # with ties
    return x, x + noise


def test_a_run_that_is_drawn_twice_counts_as_two():
    x, y = drawn(12)
    weights = np.array([np.ones(12), [2, 0, 1, 3] * 3])
    repeated = [np.repeat(v, weights[1].astype(int)) for v in (x, y)]
    want = [scipy.stats.spearmanr(x, y)[0], scipy.stats.spearmanr(*repeated)[0]]
    np.testing.assert_allclose(spearman(x, y, weights), want, rtol=1e-12)
    assert np.isnan(spearman(x, y, np.eye(12)[:1])).all()


def test_intervals_are_scipys_bootstrap_of_runs():
    x, y = drawn(16)
    found = rank_correlation(x, y, range(16))
    want = scipy.stats.bootstrap(
        (x, y), lambda a, b: scipy.stats.spearmanr(a, b)[0], paired=True, vectorized=False,
        n_resamples=999, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    np.testing.assert_allclose((found.low, found.high), want, atol=0.07)
    assert found.low < found.value < found.high and (found.runs, found.clusters) == (16, 16)


def test_runs_of_one_teacher_add_no_certainty():
    x, y = drawn(10)
    alone, twice = (
        rank_correlation(np.tile(x, k), np.tile(y, k), [*range(10)] * k) for k in (1, 2)
    )
    assert (twice.runs, twice.clusters) == (20, 10)
    ours, theirs = ((one.value, one.low, one.high) for one in (twice, alone))
    np.testing.assert_allclose(ours, theirs)
    apart = rank_correlation(np.tile(x, 2), np.tile(y, 2), range(20))
    assert apart.high - apart.low < twice.high - twice.low
    assert clusters_of([("a", "t"), ("b", "t"), ("c", "u"), ("a", "v")]) == [0, 0, 1, 0]


@pytest.mark.parametrize(
    "n, change, clusters, reason",
    [
        (4, None, range(4), "4 runs, fewer than 5"),
        (8, lambda x, y: (0 * x, y), range(8), "the divergence is the same in all runs"),
        (8, lambda x, y: (x, 0 * y), range(8), "the lost robustness is the same in all runs"),
        (8, lambda x, y: (np.where(np.arange(8) < 4, np.nan, x), y), range(8), "4 runs, fewer"),
        (8, None, [0, 1, 2, 3] * 2, "no interval: 4 sets of runs"),
        (8, lambda x, y: (np.arange(8.0), np.arange(8.0)), range(8), "all resamples give the same"),
        (6, lambda x, y: ((np.arange(6) == 3) * 1.0, y), range(6), "too few runs differ"),
    ],
)
def test_what_is_undefined_has_its_reason(n, change, clusters, reason):
    x, y = drawn(n, seed=3)
    found = rank_correlation(*(change(x, y) if change else (x, y)), clusters)
    assert reason in found.undefined and math.isnan(found.low) and math.isnan(found.high)
    assert math.isnan(found.value) != ("interval" in found.undefined or "too few" in reason)


def read(folder, headline="worst_group_accuracy", **options) -> records.Finished:
    options["headline"] = (f"in_domain/test/{headline}",)
    synthetic_study.build(folder, **options)
    return records.read(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two methods of six seeds; CKA rises with the seed, as does what `ripple` adds."""
    return read(tmp_path_factory.mktemp("w") / "studies" / "synthetic")


def test_a_point_is_a_student_and_its_teacher(finished):
    found = explain.points(finished)
    assert len(found) == 2 * 2 * 6 * 3  # methods, students, seeds, layers of the smaller net
    one = found[(found["run"] == "distilled group_dro  seed1")].iloc[0]
    lost = synthetic_study.ripple("teacher", 1) - synthetic_study.ripple("distilled", 1) + 0.15
    assert one["lost"] == pytest.approx(lost)
    assert (one["first_layer"], one["second_layer"]) == ("stage1/block1/out", "stage1/block0/out")
    assert one["depth"] == pytest.approx(1 / 3) and one["families"] == "resnet → resnet"
    at = 1, 0  # of `synthetic_study._compare`
    aligned = 0.95 - 0.5 * abs(np.linspace(0, 1, 6)[at[0]] - np.linspace(0, 1, 3)[at[1]]) + 0.01
    assert one["aligned"] == pytest.approx(1 - aligned)
    assert one["difference"] == pytest.approx(0.3 * np.linspace(0, 1, 6)[1])
    assert found["cluster"].nunique() == 12  # teachers, each with its two students


def test_correlations_are_over_runs_by_layers_and_kind(finished):
    found = explain.points(finished)
    told = explain.correlations(found)
    layers = ["all layers", "depth 0.33", "depth 0.67", "depth 1.00"]
    assert [*dict.fromkeys(one.layers for one in told)] == layers
    assert len(told) == 2 * 4 * 3
    one = next(t for t in told if (t.students, t.layers) == ("distilled", "depth 1.00"))
    part = found[(found["students"] == "distilled") & (found["depth"] == 1)]
    want = scipy.stats.spearmanr(part["conflicting"].round(10), part["lost"].round(10))[0]
    assert one.kind == "conflicting" and one.correlation.value == pytest.approx(want)
    assert (one.correlation.runs, one.correlation.clusters) == (12, 12)
    assert one.correlation.low < want < one.correlation.high
    same = [t for t in told if t.kind == "difference"]  # the same in all seeds, up to rounding
    assert all(math.isnan(t.correlation.value) for t in same)
    deep = pd.concat([found.assign(depth=found["depth"] * k) for k in (0.5, 1.0)])
    layers = [*dict.fromkeys(one.layers for one in explain.correlations(deep))]
    # early 1/6 and 1/3, middle 1/2 and 2/3, late 1 alone, which is told by its depth
    assert layers[1:3] == ["early", "middle"] and "late" not in layers


def test_it_is_on_the_page_and_beside_it(finished, tmp_path):
    scatter, by_depth = explain.pictures(finished)
    assert "resnet → resnet, conflicting\nρ" in scatter.figure.axes[0].get_title()
    assert "teacher's worst-group accuracy on in_domain/test minus the student's" in scatter.caption
    assert "distilled: 12 runs in 12 such sets" in by_depth.caption
    assert "16 correlations were looked at here, uncorrected" in by_depth.caption
    assert scatter.svg() and by_depth.svg()
    folder = tmp_path / "studies" / "synthetic"
    read(folder, seeds=2)
    page = html.write(folder).read_text()
    assert "Lost robustness against divergence inside" in page
    assert "No correlation is told: 4 runs, fewer than 5." in page
    table = pd.read_csv(folder / "report" / "explanation.csv")
    assert (table["undefined"] == "4 runs, fewer than 5").all() and table["value"].isna().all()
    assert len(pd.read_csv(folder / "report" / "divergence.csv")) == 2 * 2 * 2 * 3


def test_robustness_is_lost_where_a_gap_grows(tmp_path):
    gap = read(tmp_path / "a" / "studies" / "synthetic", "gap_aligned", seeds=2)
    found = explain.points(gap).drop_duplicates("run")
    value = {run: gap.values([run], "in_domain/test", "gap_aligned")[0] for run in gap.runs}
    for _, one in found.iterrows():
        want = abs(value[one["run"]]) - abs(value[one["teacher_run"]])
        assert one["lost"] == pytest.approx(want)
    assert "student's |gap aligned|" in explain.pictures(gap)[0].caption
    (picture,) = explain.pictures(gap)
    assert "ρ –, 4 runs" in picture.figure.axes[0].get_title()


def test_a_baseline_of_several_comparisons_is_one_run(tmp_path):
    axes = {"mix.scope": ["total", "task"]}
    folder = tmp_path / "studies" / "synthetic"
    study = synthetic_study.build(folder, seeds=2, axes=axes)
    for run in study["runs"]:
        if run["role"] != "distilled":  # trained once for both values
            other = run["run"].replace("task", "total")
            run["stage"] = next(r["stage"] for r in study["runs"] if r["run"] == other)
    synthetic_study.write(folder, study)
    found = explain.points(records.read(folder)).drop_duplicates(["run", "teacher_run"])
    assert found["students"].value_counts().to_dict() == {"distilled": 8, "baseline": 4}
    assert found["cluster"].nunique() == 4


def test_layers_that_are_undefined_leave_their_run_out(tmp_path):
    folder = tmp_path / "studies" / "synthetic"
    study = synthetic_study.build(folder, worst={"erm": synthetic_study.WORST["erm"]}, seeds=6)
    stage = next(r for r in study["runs"] if r["role"] == "distilled")["comparisons"]["teacher"]
    path = folder.parent.parent / "stages" / stage / "result.json"
    result = json.loads(path.read_text())
    result["conflicting"][-1][-1] = None
    path.write_text(json.dumps(result))
    synthetic_study.close(folder)
    table = pd.read_csv(io.StringIO(explain.tables(records.read(folder))["explanation.csv"]))
    table = table[table["students"] == "distilled"].set_index(["layers", "kind"])["runs"]
    assert table["all layers", "conflicting"] == table["depth 1.00", "difference"] == 5
    assert table["all layers", "aligned"] == table["depth 0.33", "conflicting"] == 6


def test_a_study_without_comparisons_has_none_of_it(tmp_path):
    plain = read(tmp_path / "studies" / "synthetic", seeds=1, compare=False)
    assert not explain.pictures(plain) and not explain.tables(plain)
