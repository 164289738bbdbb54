"""How like two nets are by every measure asked for, beside nets that differ in their seed alone."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
import matplotlib
import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from fairkd_jax import files
from fairkd_jax.report import figures
from fairkd_jax.report.against import Comparison
from fairkd_jax.report.records import ROLES, Finished, labels, span

KINDS = figures.KINDS
CKA = ""  # the measure that every comparison has; others are named
TWINS = "other_seed"  # the stage that compares a teacher with that of another seed
Results = Sequence[Mapping[str, Any]]  # of stages "compare", a seed each


def pictures(
    finished: Finished, comparisons: Sequence[Comparison]
) -> Iterator[figures.Picture | None]:
    """Of each comparison every measure beside CKA; then teachers of two seeds, once for each."""
    shown = set()
    for label, comparison in zip(labels(comparisons), comparisons):
        found, twins = _of_students(finished, comparison), _of_twins(finished, comparison)
        for name in _measures(found):
            yield maps(name, found, label, twins)
        ids = comparison.nets("teacher")
        if twins and ids not in shown:
            shown.add(ids)
            for name in (CKA, *_measures({"teacher": twins})):
                title = f"teachers of two seeds, {comparison.teacher_model}, {comparison.debias}"
                yield maps(name, {"two seeds": twins}, title)


def _of_students(finished: Finished, comparison: Comparison) -> dict[str, Results]:
    """By role what was found between teacher and student, in the order of seeds."""
    found = {}
    for role in ROLES[1:]:
        runs = [finished.runs[run] for run in comparison.nets(role)]
        stages = [(run.get("comparisons", {}).get(comparison.inside), run["run"]) for run in runs]
        results = [finished.result(s, run, "comparison with teacher") for s, run in stages if s]
        if results:
            found[role] = results
    return found


def _of_twins(finished: Finished, comparison: Comparison) -> Results:
    """What was found between the teacher and that of the next seed."""
    runs = [finished.runs[run] for run in comparison.nets("teacher")]
    stages = [(run.get("inside", {}).get(TWINS), run["run"]) for run in runs]
    return [finished.result(s, run, "comparison with another seed") for s, run in stages if s]


def _measures(found: Mapping[str, Results]) -> list[str]:
    """The names of other measures, in their order."""
    return [*dict.fromkeys(n for rs in found.values() for r in rs for n in r.get("measures", {}))]


def _part(result: Mapping[str, Any], name: str, kind: str) -> dict[str, np.ndarray]:
    """Value, low, high and null of a measure for a kind of example, NaN where there is none."""
    if name == CKA:
        names = {"value": kind, "low": f"{kind}_low", "high": f"{kind}_high"}
        names |= {"null": f"null_{kind}"}
        nothing = np.full_like(figures.array(result[kind]), np.nan)  # results of long ago
        return {k: figures.array(result[v]) if v in result else nothing for k, v in names.items()}
    return {k: figures.array(v) for k, v in result["measures"][name][kind].items()}


def _mean(results: Results, name: str, kind: str, part: str) -> Float[np.ndarray, "L1 L2"]:
    return np.mean([_part(r, name, kind)[part] for r in results], axis=0)


def maps(
    name: str, found: Mapping[str, Results], title: str, twins: Results = ()
) -> figures.Picture:
    """A measure between layers on aligned and on conflicting examples, and their difference.

    `found` are results by what they are called, of one pair of architectures; `twins` those of
    teachers of two seeds, told in the caption.
    """
    called = name or "debiased linear CKA"
    first, second = (next(iter(found.values()))[0][f"{k}_layers"] for k in ("first", "second"))
    every = [r for results in found.values() for r in results]
    is_distance = name != CKA and every[0]["measures"][name]["same"] == 0
    values = {
        k: {kind: _mean(rs, name, kind, "value") for kind in KINDS} for k, rs in found.items()
    }
    spread = {k: v["conflicting"] - v["aligned"] for k, v in values.items()}
    largest = max([0.01, *_finite(v for by_kind in values.values() for v in by_kind.values())])
    ends = (0.0, largest if is_distance or largest > 1 else 1.0)
    most = max([0.05, *_finite(spread.values())])
    with matplotlib.rc_context(figures.STYLE):
        size = (figures.WIDTH, 1.6 + len(found) * (0.6 + 0.24 * len(first)))
        figure, axes = figures.grid(len(found), 3, size, sharex=True, sharey=True)
        for line, role in enumerate(found):
            own = axes[3 * line : 3 * line + 3]
            for ax, kind in zip(own, KINDS):
                panel = f"{role}, {kind}"
                shown = figures.heat_map(
                    ax, values[role][kind], panel, first, second, "viridis", ends
                )
            figure.colorbar(shown, ax=own[:2], label=called, fraction=0.03)
            panel = f"{role}, conflicting − aligned"
            shown = figures.heat_map(
                own[2], spread[role], panel, first, second, "PuOr", (-most, most)
            )
            figure.colorbar(shown, ax=own[2], label="difference", fraction=0.06)
            own[0].set_ylabel("first net's layer")
        for ax in axes[-3:]:
            ax.set_xlabel("second net's layer")
    counts = " and ".join(f"{span([r[f'n_{kind}'] for r in every])} {kind}" for kind in KINDS)
    seeds = span([len(results) for results in found.values()])
    facts = [f"{role}: {_facts(results, name)}" for role, results in found.items()]
    if name in ("", *_measures({"": twins})) and twins:
        facts.append(f"teachers of two seeds: {_facts(twins, name)}")
    return figures.Picture(
        f"{called[:1].upper()}{called[1:]}: {title}",
        figure,
        f"Heat maps of {called} between layers of two nets ({', '.join(found)}), on aligned and"
        " conflicting examples, and their difference.",
        f"{called}, a {'distance: 0' if is_distance else 'similarity: 1'} is the same; mean over"
        f" {seeds} seed{'s' * (seeds != '1')}, on {counts} examples. Rows are the first net's"
        " layers (the teacher's), first at the bottom, columns the second's. Mean over pairs of"
        " layers, with that of shuffled rows (null) and the median width of the 95% interval over"
        f" examples: {'; '.join(facts)}.{_undefined(every, name)}",
    )


def _facts(results: Results, name: str) -> str:
    """ "aligned 0.61 (null 0.01, interval 0.05), conflicting ...; of equal layers ..."."""
    told = []
    for kind in KINDS:
        parts = [_part(r, name, kind) for r in results]
        value, null = (_average([p[k] for p in parts], np.mean) for k in ("value", "null"))
        width = _average([p["high"] - p["low"] for p in parts], np.median)
        told.append(f"{kind} {value:.3f} (null {null:.3f}, interval {width:.3f})")
        if results[0]["first_layers"] == results[0]["second_layers"]:
            same = _average([np.diag(p["value"]) for p in parts], np.mean)
            told[-1] += f", layers with themselves {same:.3f}"
    return ", ".join(told).replace("nan", "–").replace("-", "−")


def _average(parts: Sequence[np.ndarray], how: Any) -> float:
    values = np.concatenate([np.ravel(p) for p in parts])
    values = values[np.isfinite(values)]
    return float(how(values)) if len(values) else math.nan


def _undefined(results: Results, name: str) -> str:
    """Why something is a gap."""
    told = [r if name == CKA else r["measures"][name] for r in results]
    reasons = dict.fromkeys(reason for one in told for reason in one.get("undefined", ()))
    return f" Undefined: {'; '.join(reasons)}." if reasons else ""


def _finite(values: Any) -> list[float]:
    return [v for one in values for v in np.abs(one).flat if np.isfinite(v)]


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ first }} and {{ second }}</title>
<style>
:root { color-scheme: light dark; }
body { margin: 0; font: 16px/1.55 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
figure { margin: 1.5rem 0 2.25rem; } figcaption { font-size: .875rem; max-width: 46rem; }
svg { max-width: 100%; height: auto; }
</style>
</head>
<body><main>
<h1>How like two nets are inside</h1>
<p>First: {{ first }}. Second: {{ second }}. Examples of {{ examples }}.</p>
{% for p in pictures %}
<h2>{{ p.name }}</h2>
<figure role="img" aria-label="{{ p.alt }}">{{ p.svg }}
<figcaption>{{ p.caption }}</figcaption></figure>
{% endfor %}
</main></body>
</html>
"""


def page(result: Mapping[str, Any], first: str, second: str, examples: str) -> str:
    """One self-contained page about two nets; `result` as `compare_nets` gives it."""
    result = files.plain(result)
    found = {"nets": [result]}
    drawn = [maps(name, found, f"{first} and {second}") for name in (CKA, *_measures(found))]
    shown = [
        {"name": p.name, "alt": p.alt, "caption": p.caption, "svg": Markup(p.svg())} for p in drawn
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(PAGE)
    return template.render(first=first, second=second, examples=examples, pictures=shown)


def arrays(result: Mapping[str, Any]) -> bytes:
    """`result` as the bytes of an .npz: names and numbers, "measures/NAME/KIND/value" and so on."""
    found: dict[str, np.ndarray] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, one in value.items():
                add(f"{name}/{key}" if name else str(key), one)
        else:
            value = np.asarray(value)
            found[name] = value.astype(np.float64) if value.dtype == object else value

    add("", result)
    file = io.BytesIO()
    np.savez(file, **found)
    return file.getvalue()
