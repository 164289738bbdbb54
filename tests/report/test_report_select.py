"""Selection rules after the fact, on histories small enough to read."""

import math

import pytest

from fairkd_jax.config import SELECTION_RULES
from fairkd_jax.registry import UnknownName
from fairkd_jax.report.select import FIRST, LAST, ONLY, TIED, Choice, select

HISTORY = [
    {"step": 10, "train/loss": 1.0},
    *(
        {
            "step": step,
            "val/acc_avg": average,
            "val/worst_group_accuracy": group,
            "val/worst_class_accuracy": label,
        }
        for step, average, group, label in (
            (10, 0.7, 0.5, 0.6),
            (20, 0.9, 0.4, 0.6),
            (30, 0.8, math.nan, 0.7),
        )
    ),
    {"step": 40, "train/loss": 0.5},
]


@pytest.mark.parametrize(
    ("rule", "step"),
    [("last", 40), ("val_average", 20), ("val_worst_group", 10), ("val_worst_class", 30)],
)
def test_rules(rule, step):
    assert select(HISTORY, rule).step == step


def test_a_metric_selects_by_its_better_side():
    steps = (10, -0.3, 0.5), (20, 0.1, 0.9), (30, 0.6, 0.2)
    history = [{"step": s, "val/gap_aligned": gap, "val/loss": loss} for s, gap, loss in steps]
    assert select(history, "gap_aligned").step == 20  # the nearest to 0
    assert select(history, "loss").step == 30
    assert select(HISTORY, "worst_group_accuracy") == select(HISTORY, "val_worst_group")
    with pytest.raises(UnknownName, match=r"'wrost_group_accuracy'.*'worst_group_accuracy'"):
        select(HISTORY, "wrost_group_accuracy")


def test_every_rule_of_the_config_is_known():
    assert all(isinstance(select(HISTORY, rule).step, int) for rule in SELECTION_RULES)


def _history(*lines):
    return [
        {"step": step, "val/worst_group_accuracy": worst, "val/acc_avg": average}
        for step, worst, average in lines
    ]


def test_of_equals_the_best_average_then_the_latest():
    tied = _history((25, 0.0, 0.6), (50, 0.0, 0.7), (75, 0.0, 0.7), (100, 0.0, math.nan))
    assert select(tied, "val_worst_group") == Choice(75, (TIED,))
    assert select(tied, "val_average") == Choice(75, (TIED, LAST))  # of those with an average


@pytest.mark.parametrize(
    ("worst", "doubts"),
    [
        ((0.1, 0.3, 0.2), ()),
        ((0.1, 0.2, 0.3), (LAST,)),
        ((0.3, 0.2, 0.1), (FIRST,)),
        ((0.3, 0.3, 0.1), (TIED,)),
        ((0.0, 0.0, 0.0), (TIED, LAST)),
        ((0.3,), (ONLY,)),
        ((math.nan, None, 0.3), (ONLY,)),
    ],
)
def test_ties_and_edges_are_doubts(worst, doubts):
    lines = _history(*((25 * (i + 1), w, 0.5) for i, w in enumerate(worst)))
    assert select(lines, "val_worst_group").doubts == doubts
    assert select(lines, "last").doubts == ()


def test_another_split():
    assert select([{"step": 5, "dev/acc_avg": 0.5}], "val_average", "dev").step == 5


def test_what_cannot_be_selected():
    with pytest.raises(UnknownName, match="val_worst_group"):
        select(HISTORY, "val_worst_groop")
    with pytest.raises(ValueError, match="'val/acc_avg'"):
        select([{"step": 10, "train/loss": 1.0}], "val_average")
    with pytest.raises(ValueError, match="no lines"):
        select([], "last")
