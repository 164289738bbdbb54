"""Selection rules after the fact, on histories small enough to read."""

import math

import pytest

from fairkd_jax.config import SELECTION_RULES
from fairkd_jax.registry import UnknownName
from fairkd_jax.report.select import select

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
    assert select(HISTORY, rule) == step


def test_every_rule_of_the_config_is_known():
    assert all(isinstance(select(HISTORY, rule), int) for rule in SELECTION_RULES)


def test_of_equals_the_earliest():
    assert select([{"step": s, "val/acc_avg": 0.5} for s in (3, 1, 2)], "val_average") == 1


def test_another_split():
    assert select([{"step": 5, "dev/acc_avg": 0.5}], "val_average", "dev") == 5


def test_what_cannot_be_selected():
    with pytest.raises(UnknownName, match="val_worst_group"):
        select(HISTORY, "val_worst_groop")
    with pytest.raises(ValueError, match="'val/acc_avg'"):
        select([{"step": 10, "train/loss": 1.0}], "val_average")
    with pytest.raises(ValueError, match="no lines"):
        select([], "last")
