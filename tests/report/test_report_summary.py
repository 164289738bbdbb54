"""The headline as numbers and as a table of Markdown: those of the page."""

import io

import pandas as pd
import pytest
import synthetic_study

from fairkd_jax.report import headline, html, records, summary

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work") / "studies" / "synthetic"
    metrics = ("in_domain/test/acc_avg", "in_domain/test/worst_group_accuracy")
    synthetic_study.build(folder, headline=metrics)
    html.write(folder)
    return records.read(folder)


def test_the_file_holds_the_numbers_of_the_page(finished):
    path = finished.folder / "studies" / "synthetic" / "report" / "headline.csv"
    table = pd.read_csv(io.StringIO(path.read_text()))
    lines = [
        line
        for metric in finished.headline()
        for line in headline.lines(finished, finished.comparisons(), *metric)
    ]
    assert [*table["comparison"]] == [line.label for line in lines]
    for name in summary.QUANTITIES:
        for end, told in (("", "value"), (" low", "low"), (" high", "high")):
            expected = [getattr(line.estimates[name], told) for line in lines]
            assert [*table[name + end]] == pytest.approx(expected, rel=1e-5, nan_ok=True)
    gain = [line.gains["teacher"].value for line in lines if line.gains]
    assert [*table["gain of teacher"].dropna()] == pytest.approx(gain, rel=1e-5)


def test_the_table_puts_the_best_teacher_first(finished):
    head, _, first, second = summary.markdown(summary.frame(finished)).splitlines()
    assert head.count("|") == first.count("|") == second.count("|")
    assert "teacher, in_domain/test acc_avg" in head
    assert first.startswith("| group_dro | ") and second.startswith("| erm | ")
    worst = [line.estimates["teacher"] for line in headline.lines(*_last(finished))]
    for row, teacher in zip((second, first), worst):  # erm stands before group_dro in the study
        assert f" {teacher.value:.2f} [".replace("0.", ".") in row
    assert " −.15 [−.16, −.14] | lost |" in first and second.endswith("reference |")


def _last(finished):
    return finished, finished.comparisons(), *finished.headline()[-1]
