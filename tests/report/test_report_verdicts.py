"""Verdicts of a study in signed gaps, in seeds that are equal or missing, and on doubtful steps."""

import json

import numpy as np
import pytest
import synthetic_study

from fairkd_jax.data.dataset import Info
from fairkd_jax.evaluation import fairness, metrics
from fairkd_jax.evaluation.sums import Sums
from fairkd_jax.report import figures, headline, records
from fairkd_jax.report import html as page

pytestmark = pytest.mark.quick

TEST = "in_domain/test"
RIPPLE = 0.003 * np.array([1, -1, 2, -2, 0, 1])


@pytest.fixture
def study(tmp_path):
    """Reads a study in which a metric of `group_dro` has given values by role, seed by seed."""

    def build(metric, **by_role):
        folder, seeds = tmp_path / "studies" / "synthetic", len(next(iter(by_role.values())))
        headline_metric = (f"{TEST}/{metric}",)
        synthetic_study.build(folder, seeds=seeds, compare=False, headline=headline_metric)
        finished = records.read(folder)
        for run in finished.about["runs"]:
            if run["role"] in by_role and run["debias"] == "group_dro":
                value = float(by_role[run["role"]][run["seed"]])
                finished.results[run["evaluations"][TEST]]["metrics"][metric] = value
        return finished

    return build


def _line(finished):
    alone = [c for c in finished.comparisons() if c.debias == "group_dro"]
    return headline.lines(finished, alone, *finished.headline()[0])[0]


@pytest.mark.parametrize(
    ("teacher", "distilled", "verdict", "difference"),
    [(-0.89, -0.01, "kept", -0.88), (0.05, -0.05, "kept", 0.0), (-0.01, -0.89, "lost", 0.88),
     (0.01, -0.89, "lost", 0.88), (0.89, -0.01, "kept", -0.88)],
)  # fmt: skip
@pytest.mark.parametrize("metric", ["gap_aligned", "gap_attribute/green"])
def test_a_signed_gap_is_judged_by_its_distance_from_0(
    study, metric, teacher, distilled, verdict, difference
):
    finished = study(metric, teacher=teacher + RIPPLE, distilled=distilled + 2 * RIPPLE)
    line = _line(finished)
    estimates = line.estimates
    assert line.verdict == verdict
    assert estimates["teacher"].value == pytest.approx(teacher + RIPPLE.mean())  # signed
    distances = np.abs(distilled + 2 * RIPPLE), np.abs(teacher + RIPPLE)
    assert estimates["distillability"].value == pytest.approx(np.mean(distances[0] - distances[1]))
    assert estimates["distillability"].value == pytest.approx(difference, abs=0.02)
    assert estimates["retention"].value == pytest.approx(distances[0].mean() / distances[1].mean())


def test_table_words_and_figures_of_a_signed_gap_agree(study):
    finished = study("gap_aligned", teacher=-0.89 + RIPPLE, distilled=-0.01 + 2 * RIPPLE)
    line, text = _line(finished), page.render(finished)
    shown = page._signed(line.estimates["distillability"].value)
    assert f"The difference in the distance of gap aligned from 0 is {shown} [" in text
    assert "debiasing itself moved that distance by" in text.lower()
    assert f'<td class="value">{shown} <span' in text
    assert "difference in the distance of gap aligned from 0" in text  # the figure's axis
    alone = [c for c in finished.comparisons() if c.debias == "group_dro"]
    drawn = figures.gap_against_teacher(finished, alone, TEST, "gap_aligned")
    points = drawn.figure.axes[0].collections[1].get_offsets()  # of the distilled
    assert drawn.figure.axes[0].get_xlabel() == "teacher's |gap_aligned|"
    np.testing.assert_allclose(
        np.mean(points[:, 1] - points[:, 0]), line.estimates["distillability"].value
    )


def test_debiasing_that_turns_a_gap_to_the_other_side_gained_nothing(study):
    finished = study("gap_aligned", teacher=RIPPLE)
    for run in finished.about["runs"]:
        sign, seed = (1 if run["debias"] == "erm" else -1), run["seed"]
        value = 0.7 + 0.01 * seed + (RIPPLE[seed] if sign < 0 else 0.0)
        finished.results[run["evaluations"][TEST]]["metrics"]["gap_aligned"] = sign * value
    line = headline.lines(finished, finished.comparisons(), *finished.headline()[0])[1]
    assert line.gains["teacher"].value == pytest.approx(RIPPLE.mean())
    assert line.verdict == "nothing to keep"


def test_which_gaps_are_signed():
    signed = ("gap_aligned", "gap_attribute/green", "gap_id_ood")
    assert all(metrics.kind(m).signed and metrics.kind(m).limits == (-1.0, 1.0) for m in signed)
    never_negative = ("gap_worst_group", "equalized_odds_difference", "ece")
    assert all(metrics.kind(m) == metrics.ERROR for m in never_negative)
    assert metrics.kind("acc_group/0-4, red") == metrics.SHARE


@pytest.mark.parametrize("seeds", [2, 6])
def test_equal_seeds_give_no_verdict(study, seeds):
    values = {"teacher": np.zeros(seeds), "distilled": np.full(seeds, 0.5)}
    finished = study("worst_group_accuracy", **values)
    line, text = _line(finished), page.render(finished)
    assert line.verdict == "inconclusive" and np.isnan(line.p["distillability"])
    assert "It is the same in all seeds" in text
    assert "0.000 [0.000, 0.000]" not in text and "nan" not in text.lower().split()
    assert ("no p: all equal" in text) == (seeds == 6)


def test_a_seed_without_the_metric_is_counted(study):
    distilled = 0.6 + RIPPLE
    distilled[2] = np.nan
    finished = study("worst_group_accuracy", teacher=0.6 - RIPPLE, distilled=distilled)
    text = page.render(finished)
    assert _line(finished).estimates["distillability"].n == 5
    assert "over 5 of 6 seeds" in text and "defined in 5" in text


def test_a_metric_undefined_in_a_role_gives_no_verdict(study):
    finished = study("worst_group_accuracy", teacher=0.6 + RIPPLE, distilled=np.full(6, np.nan))
    assert _line(finished).verdict == "inconclusive"
    assert "It is undefined, so nothing follows." in page.render(finished)


def test_every_metric_that_is_measured_is_declared():
    info = Info(("a", "b"), ("x", "y"), ((True, False), (False, True)), "", "")
    found = fairness.metrics(Sums.zero(4, 2), info, train_counts=np.ones(4))
    measured = [*found, "gap_id_ood"]
    assert [m for m in measured if metrics.kind(m) == metrics.UNDECLARED] == []


def test_a_doubtful_step_is_told_beside_the_answer(study):
    finished = study("worst_group_accuracy", teacher=0.6 + RIPPLE)
    for run in finished.about["runs"]:
        run["selection"] = "val_worst_group"
        lines = [
            {"step": 25 * i, "val/acc_avg": 0.5, "val/worst_group_accuracy": worst}
            for i, worst in enumerate((0.0, 0.3, 0.3 if run["seed"] < 4 else 0.2), start=1)
        ]
        path = finished.folder / "stages" / run["stage"] / "metrics.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = " ".join(page.render(finished).split())
    doubt = "tied in 4 of 6 seeds, at the last validated step in 4 of 6 seeds"
    assert f"Selection of the step: teacher {doubt}; baseline {doubt}; distilled {doubt}." in text
    assert "training longer may change the result" in text
    assert f"<td>{doubt}</td>" in text  # in the table of what each rule would have kept


def test_rows_left_out_on_reading_are_shown(study):
    finished = study("worst_group_accuracy", teacher=0.6 + RIPPLE)
    assert "Not counted" not in page.render(finished)
    finished.about["data"]["in_domain"]["train"]["left_out"] = {"-": 1785, "?": 1}
    told = "Not counted in train: 1,785 rows (“-”), 1 row (“?”)."
    assert told in page.render(finished)
