"""The page of a synthetic study: its numbers, words, figures, and what it must never hold."""

import dataclasses
import html.parser
import json
import re

import numpy as np
import pytest
import synthetic_study

from fairkd_jax.config import SELECTION_RULES
from fairkd_jax.report import figures, headline, records
from fairkd_jax.report import html as page
from fairkd_jax.report.statistics import Estimate

pytestmark = pytest.mark.quick

SECTIONS = (
    "answer", "data", "results", "figures", "evaluations", "selection", "compute", "reproduce",
    "licences",
)  # fmt: skip
VOID = {"meta", "br", "link", "img", "path", "use", "image", "hr"}


class Outline(html.parser.HTMLParser):
    """Checks that tags close in order; keeps tags, ids of sections, addresses and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.sections, self.addresses, self.text = [], set(), [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            if tag == "section" and name == "id":
                self.sections.append(value)
            if name in ("href", "src", "xlink:href", "srcset", "action"):
                self.addresses.append(value.strip())

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text))


@pytest.fixture
def tmp_path(tmp_path):
    """The study's own folder in a work folder."""
    return tmp_path / "studies" / "synthetic"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work") / "studies" / "synthetic"
    synthetic_study.build(folder)
    return page.write(folder)


@pytest.fixture(scope="module")
def text(written):
    return written.read_text()


@pytest.fixture(scope="module")
def outline(text):
    return Outline(text)


def test_writes_page_and_records(written):
    assert written.name == "index.html" and written.parent.name == "report"
    assert sorted(p.name for p in written.parent.iterdir()) == [
        "divergence.csv",
        "explanation.csv",
        "headline.csv",
        "index.html",
        "records.csv",
    ]


def test_every_section_in_order_with_counts_before_results(outline):
    assert tuple(outline.sections) == SECTIONS
    assert "5,000" in outline.words and "9,110" in outline.words  # the counts of train, their sum


def test_self_contained(text, outline):
    inside = re.compile(r"#|data:image/png;base64,")
    assert outline.addresses and all(inside.match(a) for a in outline.addresses)
    assert not re.search(r"https?://|@import|url\((?!#)|<script|<link", text)
    # differences, groups, gaps and a map for each method; divergence against what is lost, by depth
    assert text.count("<svg") == 7
    assert figures.INK not in text and "currentColor" in text


def _mean(role, method="group_dro"):
    ripples = [synthetic_study.ripple(role, s) for s in range(6)]
    return synthetic_study.WORST[method][role] + np.mean(ripples)


def test_headline_answers_in_numbers(outline):
    teacher, distilled, baseline = (_mean(r) for r in ("teacher", "distilled", "baseline"))
    words = outline.words
    assert "Lost , group_dro :" in words
    assert f"is {teacher:.3f} [" in words and f"and {distilled:.3f} [" in words
    assert f"The difference is −{teacher - distilled:.3f} [" in words
    assert f"reaches {baseline:.3f} [" in words
    assert f"changed it by −{baseline - distilled:.3f} [" in words
    assert "moved the teacher by +0.600 [" in words  # from erm: .70 - .10
    assert "Reference , erm : nothing was debiased" in words


def test_quantities_are_those_of_the_definition(tmp_path):
    synthetic_study.build(tmp_path)
    finished = records.read(tmp_path)
    line = headline.lines(finished, finished.comparisons(), *finished.headline()[0])[1]
    extra = np.array([0.01 * ((s * 3) % 4 - 1.5) for s in range(6)])  # of distilled alone
    assert line.estimates["distillability"].value == pytest.approx(-0.15 + extra.mean())
    assert line.estimates["contribution"].value == pytest.approx(-0.05 + extra.mean())
    assert line.estimates["retention"].value == pytest.approx(_mean("distilled") / _mean("teacher"))
    assert line.p["distillability"] == pytest.approx(2 / 2**6)
    assert line.corrected["distillability"] > line.p["distillability"]


def test_captions_name_rule_seeds_and_what_varies(text):
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text, re.DOTALL)
    assert len(captions) == 7
    for caption in captions:
        assert "Selection rule: last" in caption and "Seeds: 6" in caption
        assert "initialisation and the order of the data" in caption
    maps = [c for c in captions if "(null" in c]  # which say how many examples
    assert len(maps) == 2 and "100 conflicting examples (null 0.006, furthest 0.006)" in maps[0]


def test_selection_is_looked_at_by_every_rule(outline):
    in_all = "validated step in 6 of 6 seeds"
    assert f"teacher val_worst_group 50 at the first {in_all} 0.700 0.703 [" in outline.words
    assert f"teacher val_average 100 at the last {in_all} 0.800 0.693 [" in outline.words


def test_says_how_to_run_it_again_and_what_it_cost(outline):
    for wanted in (
        "python launch/study.py --config=configs/studies/synthetic.py", "0123456789ab", "0.0.1",
        "cpu x2", "77,000 parameters", "CC BY 4.0", "drawn for this test", "61.5 s",
        "train 2 40.0 4.5 33 5 60,000 1,500", "evaluate 1 1.0 – – – 1,000 1,000", '"seeds": 6',
    ):  # fmt: skip
        assert wanted in outline.words, wanted


def test_the_same_study_gives_the_same_page(written, text):
    assert page.write(written.parent.parent).read_text() == text


def test_no_p_below_six_seeds(tmp_path):
    synthetic_study.build(tmp_path, seeds=5, compare=False)
    words = Outline(page.write(tmp_path).read_text()).words
    assert "n < 6" in words and "Holm 0" not in words and "(p " not in words


def test_one_seed_concludes_nothing(tmp_path):
    synthetic_study.build(tmp_path, seeds=1, compare=False)
    words = Outline(page.write(tmp_path).read_text()).words
    assert "Inconclusive , group_dro" in words and "nothing follows" in words


def test_empty_group_is_a_dash(tmp_path):
    synthetic_study.build(tmp_path, seeds=2, counts=(500, 0, 60, 400), compare=False)
    text = page.write(tmp_path).read_text()
    row = re.search(r"<tr><th>accuracy</th><td>0-4, green</td>.*?</tr>", text, re.DOTALL)[0]
    assert re.findall(r'<td class="value">(.*?)</td>', row) == ["0", *["–"] * 5]
    assert "nan" not in Outline(text).words.lower().split()


def test_everything_is_escaped(tmp_path):
    bad = "<script>alert('$x$')</script>"
    synthetic_study.build(tmp_path, seeds=2, worst={bad: synthetic_study.WORST["group_dro"]})
    study = records.read(tmp_path).about
    names = {
        "study": bad,
        "command": bad,
        "device": bad,
        "versions": {bad: bad},
        "config": {bad: bad},
    }
    synthetic_study.write(tmp_path, study | names)
    text = page.write(tmp_path).read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "script" not in Outline(text).tags


def test_axes_are_named_and_get_an_overall_line(tmp_path):
    synthetic_study.build(tmp_path, seeds=2, axes={"mix.scope": ["total", "task"]}, compare=False)
    words = Outline(page.write(tmp_path).read_text()).words
    assert "Over 2 debiased comparisons together" in words
    assert "group_dro · mix.scope=task 2 unknown" in words  # label, seeds, attributes in training
    assert "Of all rows: distillation logits, models resnet/mini → resnet/tiny." in words


def test_an_axis_of_whole_methods_is_their_name_and_gains_are_found(tmp_path):
    whole = {
        ("erm", "total"): "erm",
        ("group_dro", "total"): "group_dro",
        ("group_dro", "task"): "group_dro, KD outside",
    }
    axes = {"method": ["total", "task"]}
    study = synthetic_study.build(tmp_path, seeds=2, axes=axes, compare=False)
    runs = [run for run in study["runs"] if (run["debias"], run["axes"]["method"]) in whole]
    for run in runs:
        run["axes"] = {"method": whole[run["debias"], run["axes"]["method"]]}
        run["sees_attributes"] = run["debias"] == "group_dro" and run["role"] != "distilled"
    study["runs"] = runs
    synthetic_study.write(tmp_path, study)
    finished = records.read(tmp_path)
    comparisons = finished.comparisons()
    assert records.labels(comparisons) == [*whole.values()]
    erm, group_dro, outside = headline.lines(finished, comparisons, *finished.headline()[0])
    assert not erm.gains and group_dro.against == outside.against == "erm"
    assert group_dro.gains["teacher"].value == pytest.approx(0.6)
    assert erm.sees_attributes == "no"
    assert group_dro.sees_attributes == "teacher yes, baseline yes, distilled no"
    assert "moved the teacher by +0.600" in Outline(page.write(tmp_path).read_text()).words


def test_the_gain_is_over_the_undebiased_comparison_of_the_same_axes(tmp_path):
    synthetic_study.build(tmp_path, seeds=2, axes={"mix.scope": ["total", "task"]}, compare=False)
    finished = records.read(tmp_path)
    lines = headline.lines(finished, finished.comparisons(), *finished.headline()[0])
    assert [line.against for line in lines[2:]] == ["erm · mix.scope=total", "erm · mix.scope=task"]


def test_the_worst_group_is_named(outline):
    assert "5-9, red (n=60; 6 of 6)" in outline.words  # beside its value


def test_subpopulations_are_counted_named_and_drawn(tmp_path):
    names = ("worst_subpopulation_accuracy", "acc_subpopulation/round=R1", "gap_id_ood/round=R1")
    parts = {"origin=original": 700, "round=R1": 30, "origin=revised": 250}
    headlines = [f"shifted/test/{name}" for name in names]
    synthetic_study.build(tmp_path, subpopulations=parts, headline=headlines, compare=False)
    words = Outline(page.write(tmp_path).read_text()).words
    assert "Worst-subpopulation accuracy on shifted/test (1000 examples)" in words
    assert "the subpopulation that is the worst in most seeds, its size n, and in how many" in words
    assert "origin=revised (n=250; 6 of 6)" in words
    assert "Accuracy of round=R1 on shifted/test (30 examples)" in words
    assert "Gap id ood of round=R1 on shifted/test (30 examples)" in words
    assert "subpopulation test origin=original 700 round=R1 30 origin=revised 250" in words
    assert "gap_id_ood: acc_avg on in_domain/test − accuracy here" in words
    assert "Accuracy by subpopulation on shifted/test" in words
    assert "Accuracy by group on shifted/test" in words


def test_says_where_few_seeds_leave_the_tests(tmp_path, outline):
    assert "With 6 seeds no p can be below 0.031" in outline.words
    assert "its correction below 0.125: the verdicts" in outline.words  # 4 tests
    synthetic_study.build(tmp_path, seeds=9, compare=False)
    assert "no p can be below" not in Outline(page.write(tmp_path).read_text()).words


def test_every_selection_rule_is_explained():
    assert tuple(page.RULES) == SELECTION_RULES


def test_no_distilled_run(tmp_path):
    study = synthetic_study.build(tmp_path, seeds=1)
    runs = [r for r in study["runs"] if r["role"] == "teacher"]
    synthetic_study.write(tmp_path, study | {"runs": runs})
    with pytest.raises(ValueError, match="no distilled run"):
        page.write(tmp_path)


def test_undefined_maps_say_so(tmp_path):
    synthetic_study.build(tmp_path, seeds=1)
    undefined = {"conflicting": [[None] * 3] * 6, "null_conflicting": [[None] * 3] * 6}
    finished = records.read(tmp_path)
    comparison = finished.comparisons()[0]
    for role in ("baseline", "distilled"):
        stage = finished.runs[comparison.runs[role][0]]["comparisons"]["teacher"]
        path = finished.folder / "stages" / stage / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | undefined))
    synthetic_study.close(tmp_path)
    picture = figures.cka_maps(finished, comparison, "erm")
    assert "conflicting examples (null undefined)" in picture.caption
    assert picture.svg().startswith("<svg")


@pytest.mark.parametrize(
    ("metric", "low", "high", "want"),
    [
        ("acc_avg", -0.2, -0.1, "lost"),
        ("acc_avg", -0.01, 0.1, "kept"),
        ("acc_avg", 0.1, 0.2, "kept"),
        ("acc_avg", -0.1, 0.1, "inconclusive"),
        ("gap_aligned", 0.1, 0.2, "lost"),
        ("gap_aligned", -0.2, -0.1, "kept"),
        ("what_nobody_declared", -0.2, -0.1, "inconclusive"),
        ("loss", -0.1, 0.01, "inconclusive"),
        ("acc_avg", np.nan, np.nan, "inconclusive"),
    ],
)
def test_verdicts(metric, low, high, want):
    assert headline.verdict(Estimate((low + high) / 2, low, high, 6), metric) == want


def test_many_groups_show_the_hardest(tmp_path):
    study = synthetic_study.build(tmp_path, seeds=2)
    finished = records.read(tmp_path)
    names = [f"group {i:02}" for i in range(20)]
    for result in finished.results.values():
        result["group_names"], result["group_counts"] = names, [10] * 20
        result["aligned"] = [[True] * 20]
        result["metrics"] = {f"acc_group/{g}": 1 - i / 40 for i, g in enumerate(names)}
    picture = figures.accuracy_by_group(finished, finished.comparisons(), "in_domain/test")
    assert "Of 20 groups, the 12 in which teachers do worst." in picture.caption
    ticks = [label.get_text() for label in picture.figure.axes[0].get_yticklabels()]
    assert ticks == [f"{g} (n=10)" for g in names[8:]] and len(study["runs"]) == 12


def test_where_the_teacher_gained_nothing_there_is_nothing_to_keep(tmp_path):
    synthetic_study.build(tmp_path, compare=False)
    finished = records.read(tmp_path)
    comparisons = finished.comparisons()
    found = headline.lines(finished, comparisons, *finished.headline()[0])
    debiased = next(line for line in found if not line.is_reference)
    assert debiased.gains["teacher"].low > 0 and debiased.verdict != "nothing to keep"
    erm = next(c for c in comparisons if c.debias == headline.UNDEBIASED)
    turned = {role: (*runs[1:], runs[0]) for role, runs in erm.runs.items()}
    for runs, verdict in ((turned, "nothing to keep"), (erm.runs, "inconclusive")):
        alike = dataclasses.replace(debiased.comparison, runs=runs)
        found = headline.lines(finished, [erm, alike], *finished.headline()[0])
        assert [line.verdict for line in found] == ["reference", verdict]
