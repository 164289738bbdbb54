"""The headline as numbers, a row for each comparison and metric, and as a table of Markdown."""

import math

import pandas as pd

from fairkd_jax.evaluation import metrics
from fairkd_jax.report import headline
from fairkd_jax.report.records import ROLES, Finished
from fairkd_jax.report.statistics import Estimate

QUANTITIES = (*ROLES, *headline.DIFFERENCES)


def frame(finished: Finished) -> pd.DataFrame:
    """Columns: what is compared; each quantity with the ends of its interval; gains; the verdict.

    A "gain" is over the undebiased comparison, of which there may be none: NaN.
    """
    comparisons, rows = finished.comparisons(), []
    for evaluation, metric, group in finished.headline():
        for line in headline.lines(finished, comparisons, evaluation, metric, group):
            gains = {f"gain of {role}": line.gains.get(role) for role in ROLES}
            found = {name: line.estimates[name] for name in QUANTITIES} | gains
            rows.append(
                {
                    "evaluation": evaluation,
                    "metric": metric,
                    "group": group,
                    "comparison": line.label,
                    "debias": line.comparison.debias,
                    "distill": line.comparison.distill,
                    "models": line.comparison.pair,
                    "sees_attributes": line.sees_attributes,
                    "seeds": len(line.comparison.seeds),
                    **{k: v for name, x in found.items() for k, v in _told(name, x).items()},
                    "verdict": line.verdict,
                }
            )
    return pd.DataFrame(rows)


def _told(name: str, estimate: Estimate | None) -> dict[str, float]:
    found = estimate or Estimate(math.nan, math.nan, math.nan, 0)
    return {name: found.value, f"{name} low": found.low, f"{name} high": found.high}


def as_csv(finished: Finished) -> str:
    """`headline.csv`, numbers to six digits."""
    return frame(finished).to_csv(index=False, lineterminator="\n", float_format="%.6g")


def markdown(table: pd.DataFrame) -> str:
    """What `frame` gives, a comparison a line: teachers in every metric, the rest in the last one.

    Best teachers in the last metric come first.
    """
    keys = ["evaluation", "metric", "group"]
    names = table[keys].drop_duplicates().agg(" ".join, axis=1).str.strip()
    parts = [part.set_index("comparison") for _, part in table.groupby(keys, sort=False)]
    last, metric = parts[-1], parts[-1]["metric"].iloc[0]
    order = last.index[
        sorted(range(len(last)), key=lambda i: -_merit(metric, last["teacher"].iloc[i]))
    ]
    head = [
        "",
        "attributes",
        *(f"teacher, {name}" for name in names),
        "its gain",
        "distilled",
        "distillability",
        "verdict",
    ]
    rows = [head, ["---"] * len(head)]
    for comparison in order:
        cells = [_cell(part.loc[comparison], "teacher") for part in parts]
        row = last.loc[comparison]
        cells += [
            _cell(row, "gain of teacher", signed=True),
            _cell(row, "distilled"),
            _cell(row, "distillability", signed=True),
        ]
        rows.append([comparison, row["sees_attributes"], *cells, row["verdict"]])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _merit(metric: str, value: float) -> float:
    return -math.inf if math.isnan(value) else metrics.merit(metric, value)


def _cell(row: pd.Series, name: str, signed: bool = False) -> str:
    """ ".62 [.55, .69]"; "–" where it is undefined, no interval where it has none."""
    if math.isnan(row[name]):
        return "–"
    low, high = (_number(row[f"{name} {end}"], signed) for end in ("low", "high"))
    interval = "" if math.isnan(row[f"{name} low"]) else f" [{low}, {high}]"
    return _number(row[name], signed) + interval


def _number(value: float, signed: bool) -> str:
    told = f"{value:+z.2f}" if signed else f"{value:z.2f}"
    return told.replace("0.", ".", 1).replace("-", "−") if abs(value) < 0.995 else told
