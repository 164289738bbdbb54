"""One self-contained page about a finished study, `report/index.html`, and `records.csv` beside it.

Every sentence on the page is made of measured numbers; what is undefined is shown as a dash.
"""

import dataclasses
import importlib.resources
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from fairkd_jax.config import SELECTION_RULES
from fairkd_jax.report import figures, records, statistics
from fairkd_jax.report.records import ROLES, Comparison, Finished, span
from fairkd_jax.report.select import select
from fairkd_jax.report.statistics import Estimate
from fairkd_jax.train import log

UNDEBIASED = "erm"  # what a method's gain is measured against
MARGIN = 0.02  # of a share: an interval that holds 0 and reaches no further down counts as kept
GAPS = ("gap_aligned", "gap_worst_group")  # for the scatter plot: the first that was measured
DIFFERENCES = {"distillability": "teacher", "contribution": "baseline"}  # what distilled is minus
DASH = "–"


@dataclasses.dataclass(frozen=True)
class Line:
    """One comparison in one metric: a row of the headline table and its sentence."""

    label: str
    comparison: Comparison
    estimates: Mapping[str, Estimate]  # the roles, distillability, contribution, retention
    p: Mapping[str, float]  # of distillability and contribution; NaN below 6 pairs
    corrected: Mapping[str, float]  # the same by Holm, over all lines of the table
    verdict: str  # kept | lost | inconclusive, or "reference" where nothing was debiased
    gains: Mapping[str, Estimate]  # by role, over the undebiased comparison; {} without one

    @property
    def is_reference(self) -> bool:
        """Was nothing debiased?"""
        return self.comparison.debias == UNDEBIASED


def write(workdir: Path) -> Path:
    """Writes the report of the study in `workdir` and returns the path of its page.

    Raises what `records.read` raises, and ValueError for a study without a distilled run.
    """
    finished = records.read(workdir)
    page = render(finished)
    folder = workdir / "report"
    folder.mkdir(exist_ok=True)
    records.write_csv(finished, folder / "records.csv")
    index, partial = folder / "index.html", folder / "index.html.part"
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, index)
    return index


def render(finished: Finished) -> str:
    """The page as text; the same study gives the same text."""
    comparisons = finished.comparisons()
    if not comparisons:
        raise ValueError(f"study {finished.about['study']!r} has no distilled run to report on")
    tables = [
        {"evaluation": e, "metric": m, "group": g, "lines": _lines(finished, comparisons, e, m, g)}
        for e, m, g in finished.headline()
    ]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "signed": _signed, "words": _words, "p": _p}
    template = importlib.resources.files("fairkd_jax.report").joinpath("page.html.j2")
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        about=finished.about,
        config=json.dumps(finished.about["config"], indent=1, ensure_ascii=False),
        comparisons=comparisons,
        labels=records.labels(comparisons),
        axes=finished.telling_axes,
        parameters={run["model"]: run["parameters"] for run in finished.runs.values()},
        tables=tables,
        overall=_overall(finished, comparisons, *finished.headline()[0]),
        pictures=_pictures(finished, comparisons, tables),
        evaluations={e: _every_metric(finished, comparisons, e) for e in finished.evaluations},
        data=_data(finished.about["data"]),
        selection=_selection(finished),
        choices=_choices(finished, comparisons),
        ledger=_ledger(finished.about["ledger"]),
        seeds=span([len(c.seeds) for c in comparisons]),
        roles=ROLES,
        undebiased=UNDEBIASED,
        margin=MARGIN,
        statistics=statistics,
    )


def _lines(
    finished: Finished, comparisons: Sequence[Comparison], evaluation: str, metric: str, group: str
) -> list[Line]:
    within = statistics.limits(metric)
    lines = []
    for label, comparison in zip(records.labels(comparisons), comparisons):
        values = _values(finished, comparison, evaluation, metric, group)
        pairs = {name: (values["distilled"], values[role]) for name, role in DIFFERENCES.items()}
        estimates = {
            **{role: statistics.over_seeds(values[role], within) for role in ROLES},
            **{name: statistics.difference(*pair, within) for name, pair in pairs.items()},
            "retention": statistics.ratio(*pairs["distillability"], within),
        }
        lines.append(
            Line(
                label=label,
                comparison=comparison,
                estimates=estimates,
                p={k: statistics.sign_flip_test(a - b) for k, (a, b) in pairs.items()},
                corrected={},
                verdict="reference"
                if comparison.debias == UNDEBIASED
                else verdict(estimates["distillability"], metric),
                gains=_gains(finished, comparisons, comparison, evaluation, metric, group),
            )
        )
    tested = [(i, name) for i, line in enumerate(lines) for name in line.p]
    corrected = dict(zip(tested, statistics.holm([lines[i].p[name] for i, name in tested])))
    return [
        dataclasses.replace(line, corrected={name: corrected[i, name] for name in line.p})
        for i, line in enumerate(lines)
    ]


def verdict(distillability: Estimate, metric: str) -> str:
    """What an interval of distillability says of the teacher's value: kept, lost, inconclusive.

    Lost: the whole interval is on the worse side of 0. Kept: it is not, and no end of it is worse
    than 0 by more than `MARGIN` (for a metric without limits, by anything).
    """
    low, high = distillability.low, distillability.high
    if statistics.lower_is_better(metric):
        low, high = -high, -low
    margin = 0.0 if statistics.limits(metric) == statistics.ANYTHING else MARGIN
    if high < 0:
        return "lost"
    return "kept" if low >= -margin else "inconclusive"


def _values(
    finished: Finished, comparison: Comparison, evaluation: str, metric: str, group: str
) -> dict[str, np.ndarray]:
    return {
        role: finished.values(comparison.runs[role], evaluation, metric, group) for role in ROLES
    }


def _gains(
    finished: Finished,
    comparisons: Sequence[Comparison],
    comparison: Comparison,
    *metric: str,
) -> dict[str, Estimate]:
    """By role, what the method gains over the same runs without debiasing, on shared seeds."""
    wanted = (UNDEBIASED, *comparison.parts[1:])
    without = next((c for c in comparisons if c.parts == wanted), comparison)
    if without is comparison:
        return {}
    _, ours, theirs = np.intersect1d(comparison.seeds, without.seeds, return_indices=True)
    debiased, undebiased = (_values(finished, c, *metric) for c in (comparison, without))
    within = statistics.limits(metric[1])
    return {
        role: statistics.difference(debiased[role][ours], undebiased[role][theirs], within)
        for role in ROLES
    }


def _overall(
    finished: Finished, comparisons: Sequence[Comparison], *metric: str
) -> tuple[Estimate, int] | None:
    """Interquartile mean of distillability over debiased comparisons; None below two of a kind."""
    debiased = [c for c in comparisons if c.debias != UNDEBIASED]
    if len(debiased) < 2 or len({c.seeds for c in debiased}) > 1 or len(debiased[0].seeds) < 2:
        return None
    values = [_values(finished, c, *metric) for c in debiased]
    scores = np.stack([v["distilled"] - v["teacher"] for v in values], axis=1)
    if not np.isfinite(scores).all():
        return None
    return statistics.stratified_interval(scores), len(debiased)


def _pictures(
    finished: Finished, comparisons: Sequence[Comparison], tables: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    first = tables[0]
    evaluation, name = first["evaluation"], first["metric"]
    if first["group"]:
        name += f" of {first['group']}"
    measured = set(finished.metrics(evaluation)["metric"])
    estimates = {k: [line.estimates[k] for line in first["lines"]] for k in DIFFERENCES}
    pictures = [
        figures.differences(comparisons, estimates, evaluation, name),
        figures.accuracy_by_group(finished, comparisons, evaluation),
        *(
            figures.gap_against_teacher(finished, comparisons, evaluation, gap)
            for gap in [g for g in GAPS if g in measured][:1]
        ),
        *(
            figures.cka_maps(finished, comparison, label)
            for comparison, label in zip(comparisons, records.labels(comparisons))
        ),
    ]
    return [
        {"name": p.name, "alt": p.alt, "caption": p.caption, "svg": Markup(p.svg())}
        for p in pictures
        if p is not None
    ]


def _every_metric(
    finished: Finished, comparisons: Sequence[Comparison], evaluation: str
) -> list[list[dict[str, Any]]]:
    """For each comparison, a row for each metric and group of an evaluation."""
    blocks = []
    for comparison in comparisons:
        rows = []
        for metric, group, n in finished.metrics(evaluation).itertuples(index=False, name=None):
            within = statistics.limits(metric)
            values = _values(finished, comparison, evaluation, metric, group)
            rows.append(
                {"metric": metric, "group": group, "n": n}
                | {role: statistics.over_seeds(values[role], within) for role in ROLES}
                | {
                    name: statistics.difference(values["distilled"], values[role], within)
                    for name, role in DIFFERENCES.items()
                }
            )
        blocks.append(rows)
    return blocks


def _data(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each set's facts, and tables of counts whose columns are the splits that share groups."""
    sets = []
    for name, entry in data.items():
        splits = {k: v for k, v in entry.items() if isinstance(v, Mapping) and "counts" in v}
        facts = {k: v for k, v in entry.items() if isinstance(v, str)}
        tables: dict[tuple[str, ...], dict[str, list[int]]] = {}
        for split, counted in splits.items():
            tables.setdefault(tuple(counted["group_names"]), {})[split] = counted["counts"]
        sets.append({"name": name, "facts": facts, "tables": list(tables.items())})
    return sets


def _selection(finished: Finished) -> str:
    """The selection rule in words, by role where roles differ."""
    rules: dict[str, list[str]] = {}
    for run in finished.runs.values():
        roles = rules.setdefault(run["selection"], [])
        if run["role"] not in roles:
            roles.append(run["role"])
    if len(rules) == 1:
        return next(iter(rules))
    return "; ".join(f"{rule} ({', '.join(roles)})" for rule, roles in rules.items())


def _choices(finished: Finished, comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """What each selection rule would have kept, where the runs were validated on their way."""
    found = []
    for label, comparison in zip(records.labels(comparisons), comparisons):
        for role, rule in itertools.product(ROLES, SELECTION_RULES):
            stages = [finished.runs[run]["stage"] for run in comparison.runs[role]]
            kept = [k for k in (_kept(finished, stage, rule) for stage in stages) if k]
            if kept:
                average, worst = (np.array(column) for column in list(zip(*kept))[1:])
                row = {"label": label, "role": role, "rule": rule}
                row["steps"] = span([step for step, *_ in kept])
                row["average"] = statistics.over_seeds(average, (0.0, 1.0))
                row["worst"] = statistics.over_seeds(worst, (0.0, 1.0))
                found.append(row)
    return found


def _kept(finished: Finished, stage: str, rule: str) -> tuple[int, float, float] | None:
    """(step, average, worst group) on validation, where a rule stops; None without validation."""
    history = log.read(finished.folder / "stages" / stage / "metrics.jsonl")
    validated = [line for line in history if any(k.endswith("/acc_avg") for k in line)]
    if not validated:
        return None
    split = next(k for k in validated[0] if k.endswith("/acc_avg")).removesuffix("/acc_avg")
    try:
        step = select(validated, rule, split)
    except ValueError:  # this rule's metric is undefined throughout
        return None
    line = next(line for line in validated if line["step"] == step)
    scores = [line.get(f"{split}/{m}") for m in ("acc_avg", "worst_group_accuracy")]
    return step, *(math.nan if score is None else score for score in scores)


def _ledger(ledger: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Stages, seconds and examples by kind, then in all."""
    rows = []
    for kind in [*dict.fromkeys(entry["kind"] for entry in ledger), "all"]:
        entries = [e for e in ledger if kind in (e["kind"], "all")]
        seconds, examples = (sum(e[k] for e in entries) for k in ("seconds", "examples"))
        rate = examples / seconds if seconds else math.nan
        row = {"kind": kind, "stages": len(entries), "seconds": seconds, "examples": examples}
        rows.append({**row, "rate": rate})
    return rows


def _number(value: float, digits: int = 3) -> str:
    return DASH if math.isnan(value) else f"{value:z.{digits}f}".replace("-", "−")


def _signed(value: float, digits: int = 3) -> str:
    return DASH if math.isnan(value) else f"{value:+z.{digits}f}".replace("-", "−")


def _p(value: float) -> str:
    if math.isnan(value):
        return f"n < {statistics.PAIRS_FOR_A_TEST}"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _words(name: str) -> str:
    return name.replace("_", " ")
