"""What the report says of each comparison in a metric: quantities, tests, verdict, gains."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from fairkd_jax.evaluation import metrics
from fairkd_jax.report import records, statistics
from fairkd_jax.report.against import members
from fairkd_jax.report.records import ROLES, WORST_OF, Comparison, Finished
from fairkd_jax.report.statistics import Estimate

UNDEBIASED = "erm"  # what a method's gain is measured against
MARGIN = 0.02  # of a share: an interval that holds 0 and reaches no further down counts as kept
DIFFERENCES = {"distillability": "teacher", "contribution": "baseline"}  # what distilled is minus


@dataclasses.dataclass(frozen=True)
class Line:
    """One comparison in one metric: a row of the headline table and its sentence."""

    label: str
    comparison: Comparison
    estimates: Mapping[str, Estimate]  # the roles, distillability, contribution, retention
    p: Mapping[str, float]  # of distillability and contribution; NaN below 6 pairs
    # kept | lost | inconclusive; "nothing to keep" where the teacher gained nothing for sure,
    # "reference" where nothing was debiased
    verdict: str
    sees_attributes: str  # is the method given them in training: yes, no, unknown, or by role;
    # and whether what decides on labels is given those of the examples that are scored
    # p by Holm, over all lines of the table
    corrected: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # by role: the group or subpopulation that is the worst in most seeds, its size, in how many
    worst: Mapping[str, tuple[str, int, int]] = dataclasses.field(default_factory=dict)
    # by role, over the undebiased comparison
    gains: Mapping[str, Estimate] = dataclasses.field(default_factory=dict)
    against: str = ""  # the label of that comparison

    @property
    def is_reference(self) -> bool:
        """Was nothing debiased?"""
        return self.comparison.debias == UNDEBIASED


def lines(finished: Finished, comparisons: Sequence[Comparison], *metric: str) -> list[Line]:
    """A line for each comparison in (evaluation, metric, group), tests corrected over all."""
    found = [_line(finished, comparisons, comparison, *metric) for comparison in comparisons]
    tested = {_test(line.comparison, name): p for line in found for name, p in line.p.items()}
    corrected = dict(zip(tested, statistics.holm([*tested.values()])))
    return [
        dataclasses.replace(
            line, corrected={name: corrected[_test(line.comparison, name)] for name in line.p}
        )
        for line in found
    ]


def tests(comparisons: Sequence[Comparison]) -> int:
    """How many tests there are: that of a student's contribution is one for all its teachers."""
    return len({_test(c, name) for c in comparisons for name in DIFFERENCES})


def _test(comparison: Comparison, name: str) -> tuple:
    """What a test compares."""
    return name, comparison.runs["distilled"], comparison.runs[DIFFERENCES[name]]


def _line(
    finished: Finished,
    comparisons: Sequence[Comparison],
    comparison: Comparison,
    evaluation: str,
    metric: str,
    group: str,
) -> Line:
    kind = metrics.kind(metric)
    labels = records.labels(comparisons)
    values = by_role(finished, comparison, evaluation, metric, group)
    compared = {role: metrics.compared(metric, values[role]) for role in ROLES}
    estimates = {
        **{role: statistics.over_seeds(values[role], kind.limits) for role in ROLES},
        **differences(metric, values),
        "retention": statistics.ratio(
            compared["distilled"], compared["teacher"], kind.compared_limits
        ),
    }
    line = Line(
        label=labels[comparisons.index(comparison)],
        comparison=comparison,
        estimates=estimates,
        p={
            name: statistics.sign_flip_test(compared["distilled"], compared[minus])
            for name, minus in DIFFERENCES.items()
        },
        verdict=verdict(estimates["distillability"], metric),
        sees_attributes=_sees_attributes(finished, comparison),
    )
    if line.is_reference:
        line = dataclasses.replace(line, verdict="reference")
    line = dataclasses.replace(line, worst=worst(finished, comparison, evaluation, metric))
    if without := _undebiased(comparisons, comparison):
        gains = _gains(finished, comparison, without, evaluation, metric, group)
        against = labels[comparisons.index(without)]
        line = dataclasses.replace(line, gains=gains, against=against)
        if kind.better and not _better(gains["teacher"], metric):
            # without an interval nothing is known of the gain, so nor of what is left of it
            known = not math.isnan(gains["teacher"].low)
            word = "nothing to keep" if known else "inconclusive"
            line = dataclasses.replace(line, verdict=word)
    return line


def least_p(comparisons: Sequence[Comparison]) -> float | None:
    """The smallest p that can be, where it limits what the corrected tests can say."""
    pairs = min(len(c.seeds) for c in comparisons)
    least = statistics.least_p(pairs)
    limited = least * tests(comparisons) > 1 - statistics.LEVEL
    limits = pairs >= statistics.PAIRS_FOR_A_TEST and limited
    return least if limits else None


def _better(gain: Estimate, metric: str) -> bool:
    """Is the whole interval of a difference on the better side of 0?"""
    return gain.high < 0 if metrics.kind(metric).better < 0 else gain.low > 0


def verdict(distillability: Estimate, metric: str) -> str:
    """What an interval of distillability says of the teacher's value: kept, lost, inconclusive.

    Lost: the whole interval is on the worse side of 0. Kept: it is not, and no end of it is worse
    than 0 by more than `MARGIN` (for a metric that is no share, by anything). Inconclusive:
    neither, no interval, or a metric of which `metrics.KINDS` does not say which way is better.
    """
    kind = metrics.kind(metric)
    if not kind.better:
        return "inconclusive"
    low, high = distillability.low, distillability.high
    if kind.better < 0:
        low, high = -high, -low
    if high < 0:
        return "lost"
    return "kept" if low >= -MARGIN * kind.share else "inconclusive"


def differences(metric: str, values: Mapping[str, np.ndarray]) -> dict[str, Estimate]:
    """Distillability and contribution, of the values by role; of a signed gap, of its distances."""
    compared = {role: metrics.compared(metric, values[role]) for role in ROLES}
    within = metrics.kind(metric).compared_limits
    return {
        name: statistics.difference(compared["distilled"], compared[minus], within)
        for name, minus in DIFFERENCES.items()
    }


def by_role(
    finished: Finished, comparison: Comparison, evaluation: str, metric: str, group: str
) -> dict[str, np.ndarray]:
    """The values of each role, in the order of the seeds."""
    return {
        role: finished.values(comparison.runs[role], evaluation, metric, group) for role in ROLES
    }


def worst(
    finished: Finished, comparison: Comparison, evaluation: str, metric: str
) -> dict[str, tuple[str, int, int]]:
    """By role, of what a worst accuracy is in most seeds, its size, in how many.

    {} for other metrics.
    """
    if (part := WORST_OF.get(metric)) is None:
        return {}
    rows = finished.metrics(evaluation)
    sizes = {"": 0} | {g: n for m, g, n in rows.itertuples(index=False) if m == part and g}
    named = {r: finished.worst_group(comparison.runs[r], evaluation, part) for r in ROLES}
    return {role: (name, sizes[name], times) for role, (name, times) in named.items()}


def _undebiased(comparisons: Sequence[Comparison], comparison: Comparison) -> Comparison | None:
    """The one without debiasing: same distillation, models and axes, or else the only candidate."""
    if comparison.debias == UNDEBIASED:
        return None
    alike = [
        c
        for c in comparisons
        if c.debias == UNDEBIASED and (c.distill, c.pair) == (comparison.distill, comparison.pair)
    ]
    same = [c for c in alike if set(c.axes) <= set(comparison.axes)]
    return (same or alike)[0] if len(same or alike) == 1 else None


def _gains(
    finished: Finished, comparison: Comparison, without: Comparison, *metric: str
) -> dict[str, Estimate]:
    """By role, what the method gains over the same runs without debiasing, on shared seeds."""
    _, ours, theirs = np.intersect1d(comparison.seeds, without.seeds, return_indices=True)
    debiased, undebiased = (by_role(finished, c, *metric) for c in (comparison, without))
    within = metrics.kind(metric[1]).compared_limits
    return {
        role: statistics.difference(
            metrics.compared(metric[1], debiased[role][ours]),
            metrics.compared(metric[1], undebiased[role][theirs]),
            within,
        )
        for role in ROLES
    }


def _sees_attributes(finished: Finished, comparison: Comparison) -> str:
    words = {True: "yes", False: "no", None: "unknown"}
    told = {
        role: " and ".join(
            dict.fromkeys(
                words[finished.runs[run].get("sees_attributes")]
                for run in members(comparison.runs[role][0])
            )
        )
        for role in ROLES
    }
    same = len(set(told.values())) == 1
    found = told[ROLES[0]] if same else ", ".join(f"{role} {word}" for role, word in told.items())
    decided = any(
        finished.runs[run].get("decides_by_attributes") for run in comparison.runs["distilled"]
    )
    return f"{found}; to decide: yes" if decided else found


def overall(
    finished: Finished, comparisons: Sequence[Comparison], *metric: str
) -> tuple[Estimate, int] | None:
    """Interquartile mean of distillability over debiased comparisons; None below two of a kind.

    A mean of teachers does not count: it says no more than they do.
    """
    debiased = [c for c in comparisons if c.debias != UNDEBIASED and c.nets("teacher")]
    if len(debiased) < 2 or len({c.seeds for c in debiased}) > 1 or len(debiased[0].seeds) < 2:
        return None
    values = [by_role(finished, c, *metric) for c in debiased]
    pairs = [[metrics.compared(metric[1], v[r]) for r in ("distilled", "teacher")] for v in values]
    scores = np.stack([distilled - teacher for distilled, teacher in pairs], axis=1)
    if not np.isfinite(scores).all():
        return None
    return statistics.stratified_interval(scores), len(debiased)
