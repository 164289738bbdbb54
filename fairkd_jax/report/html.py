"""One self-contained page about a finished study, `report/index.html`; beside it all numbers in
`records.csv`, those of the headline with their intervals in `headline.csv`, and, where layers were
compared, what tells of lost robustness in `explanation.csv` and `divergence.csv`.

Every sentence on the page is made of measured numbers; what is undefined is shown as a dash.
"""

import collections
import importlib.resources
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from fairkd_jax import files, processes
from fairkd_jax.config import SELECTION_RULES
from fairkd_jax.evaluation import metrics
from fairkd_jax.report import (
    chain,
    circuits,
    explain,
    figures,
    headline,
    records,
    similarity,
    statistics,
    stitched,
    summary,
    why,
)
from fairkd_jax.report.records import ROLES, Comparison, Finished, span
from fairkd_jax.report.select import DOUBTS, Choice, select
from fairkd_jax.study.claim import claimed
from fairkd_jax.train import log
from fairkd_jax.types import Path

RULES = {  # selection rules in words
    "last": "the weights of the last step",
    "val_average": "the step with the best average accuracy on the validation split",
    "val_worst_group": "the step with the best worst-group accuracy on the validation split, whose"
    " group labels it reads, also for a method that is given none in training",
    "val_worst_class": "the step with the best accuracy on the worst class of the validation split",
}
DASH = "–"


def write(study: Path) -> Path:
    """Writes the report of the study in `WORKDIR/studies/NAME` and returns the path of its page.

    All processes call it together, process 0 writes. Raises what `records.read` raises, and
    ValueError for a study without a distilled run.
    """
    with claimed(study):
        processes.lead(lambda: _write(study))
    return study / "report" / "index.html"


def _write(study: Path) -> None:
    finished = records.read(study)
    page = render(finished)
    folder = files.make(study / "report")
    files.write(folder / "records.csv", records.as_csv(finished))
    files.write(folder / "headline.csv", summary.as_csv(finished))
    for name, text in explain.tables(finished).items():
        files.write(folder / name, text)
    files.write(folder / "index.html", page)


def render(finished: Finished) -> str:
    """The page as text; the same study gives the same text."""
    comparisons = finished.comparisons()
    if not comparisons:
        raise ValueError(f"study {finished.about['study']!r} has no distilled run to report on")
    tables = [
        {
            "evaluation": e,
            "metric": m,
            "group": g,
            "lines": headline.lines(finished, comparisons, e, m, g),
            "signed": metrics.kind(m).signed,
            "chains": chain.tables(finished, comparisons, e, m, g),
        }
        | {"examples": _examples(finished, e, m if g else "accuracy", g)}
        for e, m, g in finished.headline()
    ]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": _number,
        "signed": _signed,
        "words": figures.words,
        "difference_of": figures.difference_of,
        "p": _p,
        "count": _count,
        "capital": lambda text: text[:1].upper() + text[1:],  # names keep theirs
    }
    template = importlib.resources.files("fairkd_jax.report").joinpath("page.html.j2")
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        about=finished.about,
        config=json.dumps(finished.about["config"], indent=1, ensure_ascii=False),
        comparisons=comparisons,
        labels=records.labels(comparisons),
        shared=records.shared_parts(comparisons),
        nets=len({run["stage"] for run in finished.runs.values()}),
        parameters={run["model"]: run["parameters"] for run in finished.runs.values()},
        tables=tables,
        overall=headline.overall(finished, comparisons, *finished.headline()[0]),
        pictures=_pictures(finished, comparisons, tables),
        circuits=circuits.tables(finished, comparisons),
        evaluations={e: _every_metric(finished, comparisons, e) for e in finished.evaluations},
        inside={e: _in_domain(finished, e) for e in finished.evaluations},
        data=_data(finished),
        selection=_selection(finished),
        choices=_choices(finished, comparisons),
        doubts=[_doubts_by_role(finished, comparison) for comparison in comparisons],
        decisions=_decisions(finished),
        ledger=_ledger(finished.about["ledger"]),
        seeds=span([len(c.seeds) for c in comparisons]),
        rules={rule: _in_words(rule) for rule in _rules(finished)},
        roles=ROLES,
        undebiased=headline.UNDEBIASED,
        margin=headline.MARGIN,
        tests=headline.tests(comparisons),
        least_p=headline.least_p(comparisons),
        statistics=statistics,
    )


def _decisions(finished: Finished) -> list[dict[str, Any]]:
    """What tells labels where it is not that the likeliest counts: each plugin once."""
    found: dict[str, dict[str, Any]] = {}
    for run in finished.runs.values():
        if "decide" in run:
            options = ", ".join(f"{k} {v}" for k, v in run["decide_options"].items())
            reads = run["decides_by_attributes"]
            one = found.setdefault(run["decide"], {"options": {}, "reads_attributes": reads})
            one["options"][options] = None
    return [{"name": k, **one, "options": " or ".join(one["options"])} for k, one in found.items()]


def _examples(finished: Finished, evaluation: str, metric: str, group: str) -> str:
    """How many examples a metric is measured on: "900", or the range where runs differ."""
    rows = finished.rows[finished.rows["evaluation"] == evaluation]
    rows = rows[(rows["metric"] == metric) & (rows["group"] == group)]
    return span(rows["n"].tolist())


def _in_domain(finished: Finished, evaluation: str) -> str:
    """The evaluations, one as a rule, from which `gap_id_ood` is counted; "" in domain."""
    found = [records.in_domain(run, evaluation) for run in finished.runs.values()]
    return " or ".join(filter(None, dict.fromkeys(found)))


def _pictures(
    finished: Finished, comparisons: Sequence[Comparison], tables: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    first = tables[0]
    evaluation, name = first["evaluation"], figures.difference_of(first["metric"])
    if first["group"]:
        name += f" of {first['group']}"
    measured = set(finished.metrics(evaluation)["metric"])
    estimates = {k: [line.estimates[k] for line in first["lines"]] for k in headline.DIFFERENCES}
    pictures = [
        figures.differences(comparisons, estimates, evaluation, name),
        *(
            figures.accuracy_by_group(finished, comparisons, evaluation, part)
            for part in figures.PARTS
            if part in measured
        ),
        *(
            figures.gap_against_teacher(finished, comparisons, evaluation, gap)
            for gap in [g for g in figures.GAPS if g in measured][:1]
        ),
        chain.picture(finished, comparisons, *finished.headline()[0]),
        *chain.maps(finished, comparisons),
        *similarity.pictures(finished, comparisons),
        *why.pictures(finished, comparisons),
        *explain.pictures(finished),
        *stitched.pictures(finished, comparisons),
        *circuits.pictures(finished, comparisons),
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
            within = metrics.kind(metric).limits
            values = headline.by_role(finished, comparison, evaluation, metric, group)
            rows.append(
                {"metric": metric, "group": group, "n": n}
                | {"worst": headline.worst(finished, comparison, evaluation, metric)}
                | {role: statistics.over_seeds(values[role], within) for role in ROLES}
                | headline.differences(metric, values)
            )
        blocks.append(rows)
    return blocks


def _data(finished: Finished) -> list[dict[str, Any]]:
    """Each set's facts, and tables of counts whose columns are the splits that share groups."""
    sets = []
    for name, entry in finished.about["data"].items():
        splits = {k: v for k, v in entry.items() if isinstance(v, Mapping) and "counts" in v}
        facts = {k: v for k, v in entry.items() if isinstance(v, str)}
        tables: dict[tuple[str, ...], dict[str, list[int]]] = {}
        parts: dict[tuple[str, ...], dict[str, list[int]]] = {}
        for split, counted in splits.items():
            tables.setdefault(tuple(counted["group_names"]), {})[split] = counted["counts"]
            if named := tuple(counted.get("subpopulations", ())):
                parts.setdefault(named, {})[split] = counted["subpopulation_counts"]
        results = [
            finished.results[stage]
            for run in finished.runs.values()
            for evaluation, stage in run["evaluations"].items()
            if evaluation.partition("/")[0] == name
        ]
        aligned = {  # whether the shortcut gives a group's label
            group: bool(right)
            for result in results
            for group, right in zip(result["group_names"], np.ravel(result["aligned"]))
        }
        kinds = dict.fromkeys(result["dataset"] for result in results)
        title = ": ".join([name, *([" and ".join(kinds)] if kinds else [])])
        sets.append({"name": title, "facts": facts, "tables": list(tables.items())})
        sets[-1]["aligned"], sets[-1]["parts"] = aligned, list(parts.items())
        sets[-1]["left_out"] = {k: v["left_out"] for k, v in splits.items() if v.get("left_out")}
    return sets


def _rules(finished: Finished) -> list[str]:
    return [*dict.fromkeys(run["selection"] for run in finished.runs.values())]


def _in_words(rule: str) -> str:
    """A selection rule, or a metric that selects, in words."""
    return RULES.get(rule, f"the step with the best {rule} on the validation split")


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
        rules = dict.fromkeys((*SELECTION_RULES, *_rules(finished)))
        for role, rule in itertools.product(ROLES, rules):
            stages = [finished.runs[run]["stage"] for run in comparison.nets(role)]
            kept = [k for k in (_kept(finished, stage, rule) for stage in stages) if k]
            if kept:
                choices, average, worst = zip(*kept)
                average, worst = np.array(average), np.array(worst)
                row = {"label": label, "role": role, "rule": rule}
                row["steps"] = span([choice.step for choice in choices])
                row["doubts"] = _doubts(choices)
                row["average"] = statistics.over_seeds(average, (0.0, 1.0))
                row["worst"] = statistics.over_seeds(worst, (0.0, 1.0))
                found.append(row)
    return found


def _doubts_by_role(finished: Finished, comparison: Comparison) -> dict[str, str]:
    """What makes the kept steps doubtful, by the rule of each run; no entry without a doubt."""
    found = {}
    for role in ROLES:
        runs = [finished.runs[run] for run in comparison.nets(role)]
        kept = [_kept(finished, run["stage"], run["selection"]) for run in runs]
        if doubts := _doubts([choice for choice, *_ in filter(None, kept)]):
            found[role] = doubts
    return found


def _doubts(choices: Sequence[Choice]) -> str:
    """ "tied in 6 of 6 seeds, at the last validated step in 4 of 6 seeds"; "" without doubts."""
    times = collections.Counter(doubt for choice in choices for doubt in choice.doubts)
    seeds = f"{len(choices)} seed{'s' * (len(choices) != 1)}"
    return ", ".join(f"{doubt} in {times[doubt]} of {seeds}" for doubt in DOUBTS if times[doubt])


def _kept(finished: Finished, stage: str, rule: str) -> tuple[Choice, float, float] | None:
    """(choice, average, worst group) on validation, where a rule stops; None without validation."""
    history = log.read(finished.folder / "stages" / stage / "metrics.jsonl")
    validated = [line for line in history if any(k.endswith("/acc_avg") for k in line)]
    if not validated:
        return None
    split = next(k for k in validated[0] if k.endswith("/acc_avg")).removesuffix("/acc_avg")
    try:
        choice = select(validated, rule, split)
    except ValueError:  # this rule's metric is undefined throughout
        return None
    line = next(line for line in validated if line["step"] == choice.step)
    scores = [line.get(f"{split}/{m}") for m in ("acc_avg", "worst_group_accuracy")]
    return choice, *(math.nan if score is None else score for score in scores)


COMPILING = ("compile_seconds", "programs", "programs_read")


def _ledger(ledger: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Stages, seconds, those for compiling, and examples by kind, then in all."""
    rows = []
    for kind in [*dict.fromkeys(entry["kind"] for entry in ledger), "all"]:
        entries = [e for e in ledger if kind in (e["kind"], "all")]
        seconds, examples = (sum(e[k] for e in entries) for k in ("seconds", "examples"))
        rate = examples / seconds if seconds else math.nan
        row = {"kind": kind, "stages": len(entries), "seconds": seconds, "examples": examples}
        # stages that earlier versions did know nothing of it
        spent = {k: sum(e.get(k, math.nan) for e in entries) for k in COMPILING}
        rows.append({**row, **spent, "rate": rate})
    return rows


def _number(value: float, digits: int = 3) -> str:
    return DASH if math.isnan(value) else f"{value:z.{digits}f}".replace("-", "−")


def _signed(value: float, digits: int = 3) -> str:
    return DASH if math.isnan(value) else f"{value:+z.{digits}f}".replace("-", "−")


def _count(value: float | int) -> str:
    return DASH if math.isnan(value) else f"{value:,.0f}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
