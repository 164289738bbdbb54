"""Does how far a student lies from its teacher inside tell how much robustness it lost?

Over the runs of a study: divergence, 1 - CKA of teacher's and student's layers of equal relative
depth, on conflicting and on aligned examples, against the teacher's headline metric minus the
student's. Spearman's rank correlations for each pair of families, beside each other those of
distilled nets, rungs among them, and of baselines, which no teacher taught: what holds for these
too, distillation does not explain. A correlation is no cause; stages "stitch" change the layer.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fairkd_jax.evaluation import metrics
from fairkd_jax.report import figures
from fairkd_jax.report.against import teachers
from fairkd_jax.report.correlation import Correlation, clusters_of, rank_correlation
from fairkd_jax.report.records import ROLES, Finished
from fairkd_jax.representation.attention import by_depth

KINDS = ("conflicting", "aligned", "difference")  # of the first two, conflicting - aligned
COLOURS = {"conflicting": "#D55E00", "aligned": "#0072B2", "difference": "#999999"}
STUDENTS = {"distilled": "distilled", "rung": "distilled", "baseline": "baseline"}  # by role
THIRDS = ("early", "middle", "late")
ALL = "all layers"
PAIR = ["run", "teacher_run"]  # what tells points apart
METHODS = "tab10", "tab20"  # colours of up to 10 debiasing methods, and of more


@dataclasses.dataclass(frozen=True)
class Told:
    """A correlation, of which runs and which layers."""

    families: str  # "resnet → vit": the teacher's, the student's
    students: str  # distilled | baseline
    layers: str  # all layers | early | middle | late | "depth 0.50"
    kind: str  # of examples
    correlation: Correlation


def points(finished: Finished) -> pd.DataFrame:
    """A row for each student, teacher and pair of layers: who they are, and what is correlated.

    Columns: families, students, run, role, debias, distill, model, teacher_model, seed, lost, depth
    (the student's layer l of L has l / L), first_layer, second_layer, `KINDS`; cluster: the number
    of the set of runs that share a net. No rows where no layers were compared, or it is not known
    which way of the headline metric is better.
    """
    evaluation, metric, group = finished.headline()[0]
    rows, seen = [], set()
    for run in finished.runs.values() if metrics.kind(metric).better else ():
        for name, stage in run.get("comparisons", {}).items():
            by = {n or "teacher": finished.runs.get(one) for n, one in teachers(run).items()}
            teacher = by.get(name)
            nets = (run["stage"], teacher["stage"]) if teacher else ()
            if not nets or nets in seen:  # a baseline that several comparisons share
                continue
            seen.add(nets)
            values = finished.values((teacher["run"], run["run"]), evaluation, metric, group)
            merits = [metrics.merit(metric, value) for value in values]
            told = {
                "families": f"{_family(teacher)} → {_family(run)}",
                "students": STUDENTS[run["role"]],
                **{k: run[k] for k in ("run", "role", "debias", "distill", "model")},
                "teacher_run": teacher["run"],
                "teacher_model": teacher["model"],
                "seed": run["seed"],
                "lost": merits[0] - merits[1],
                "nets": nets,
            }
            result = finished.result(stage, run["run"], "comparison with teacher")
            rows += [told | layers for layers in _divergence(result)]
    found = pd.DataFrame(rows)
    if rows:
        found["cluster"] = clusters_of([*found["nets"]])
        found = found.drop(columns="nets")
    return found


def _family(run: Mapping[str, Any]) -> str:
    return run["model"].partition("/")[0]


def _divergence(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Of each pair of layers of equal relative depth."""
    first, second = (result[k] for k in ("first_layers", "second_layers"))
    cka = {kind: figures.array(result[kind]) for kind in KINDS[:2]}
    for a, b in by_depth(first, second):
        at = first.index(a), second.index(b)
        told = {kind: 1 - values[at] for kind, values in cka.items()}
        told["difference"] = told["conflicting"] - told["aligned"]
        depth = (at[1] + 1) / len(second)
        yield {"depth": depth, "first_layer": a, "second_layer": b} | told


def correlations(found: pd.DataFrame) -> list[Told]:
    """All that were looked at: of every pair of families, students, layers, and kind."""
    told = []
    for (families, students), part in found.groupby(["families", "students"], sort=False):
        for layers, chosen in _layers(part).items():
            runs = _by_run(chosen)
            for kind in KINDS:
                values = runs[kind].to_numpy(), runs["lost"].to_numpy()
                one = rank_correlation(*values, runs["cluster"].tolist())
                told.append(Told(families, students, layers, kind, one))
    return told


def _by_run(found: pd.DataFrame) -> pd.DataFrame:
    """A row for each student and teacher: means over layers, NaN where one is."""
    groups = found.groupby(PAIR, sort=False)
    means = groups[[*KINDS]].agg(lambda values: values.mean(skipna=False))
    return groups[["families", "students", "debias", "lost", "cluster"]].first().join(means)


def _layers(part: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """All layers, thirds of the depth with more than one, and each depth that all runs have."""
    third = np.ceil(part["depth"] * 3 - 1e-9).astype(int) - 1
    found = {ALL: part}
    depth = part["depth"].round(4)
    for i, name in enumerate(THIRDS):
        if depth[third == i].nunique() > 1:
            found[name] = part[third == i]
    times = part.groupby(depth).size()
    common = times.index[times == part.groupby(PAIR).ngroups]
    return found | {f"depth {d:.2f}": part[depth == d] for d in common}


def tables(finished: Finished) -> dict[str, str]:
    """Files beside `records.csv`, by name; none where no layers were compared."""
    found = points(finished)
    if found.empty:
        return {}
    rows = []
    for one in correlations(found):
        row = {k: v for k, v in vars(one).items() if k != "correlation"}
        rows.append(row | vars(one.correlation))
    told = {"explanation.csv": pd.DataFrame(rows), "divergence.csv": found}
    return {
        name: table.to_csv(index=False, lineterminator="\n", float_format="%.6g")
        for name, table in told.items()
    }


def pictures(finished: Finished) -> list[figures.Picture]:
    """Lost robustness against divergence, and the correlations by depth, where there are any."""
    found = points(finished)
    if found.empty:
        return []
    told = correlations(found)
    evaluation, metric, group = finished.headline()[0]
    name = f"{figures.words(metric)}{f' of {group}' if group else ''}"
    if metrics.kind(metric).signed:
        name = f"|{name}|"
    lost = f"teacher's {name} on {evaluation} minus the student's"
    if metrics.kind(metric).better < 0:
        lost = f"student's {name} on {evaluation} minus the teacher's"
    tests = sum(not math.isnan(one.correlation.value) for one in told)
    if not tests:
        reasons = "; ".join(dict.fromkeys(one.correlation.undefined for one in told))
        return [_scatter(found, told, lost, f" No correlation is told: {reasons}.")]
    return [_scatter(found, told, lost), _by_depth(told, lost, tests)]


def _scatter(
    found: pd.DataFrame, told: Sequence[Told], lost: str, more: str = ""
) -> figures.Picture:
    """A line of panels for each pair of families: a kind each, a point a run."""
    families = [*dict.fromkeys(found["families"])]
    methods = [*dict.fromkeys(found["debias"])]
    colours = matplotlib.colormaps[METHODS[len(methods) > 10]].colors
    colour = {method: colours[i % len(colours)] for i, method in enumerate(methods)}
    runs = _by_run(found)
    with matplotlib.rc_context(figures.STYLE):
        size = (figures.WIDTH, 2.7 * len(families) + 0.9)
        figure, axes = figures.grid(len(families), len(KINDS), size, sharey=True)
        for i, name in enumerate(families):
            for ax, kind in zip(axes[3 * i :], KINDS):
                for (students, method), one in runs[runs["families"] == name].groupby(
                    ["students", "debias"], sort=False
                ):
                    hollow = {"facecolors": "none", "edgecolors": [colour[method]]}
                    full = {"color": [colour[method]], "linewidths": 0}
                    ax.scatter(
                        one[kind], one["lost"], s=26, marker=figures.MARKERS[students],
                        **(full if students == "distilled" else hollow),
                    )  # fmt: skip
                ax.set_title(f"{name}, {kind}\n{_said(told, name, kind)}")
                ax.set_xlabel("difference in 1 − CKA" if kind == KINDS[2] else "1 − CKA")
                ax.axhline(0, color=figures.INK, linewidth=0.7, linestyle=":")
                ax.grid(alpha=0.25, color=figures.INK, linewidth=0.5)
            axes[3 * i].set_ylabel("lost robustness")
        handles = [
            Line2D([], [], color=c, marker="o", linestyle="", label=m) for m, c in colour.items()
        ]
        for students in dict.fromkeys(found["students"]):
            fill = "full" if students == "distilled" else "none"
            look = {"marker": figures.MARKERS[students], "fillstyle": fill, "linestyle": ""}
            handles.append(Line2D([], [], color=figures.INK, label=students, **look))
        figure.legend(handles=handles, loc="outside right upper")
    return figures.Picture(
        "Lost robustness against divergence inside",
        figure,
        f"Scatter plots: lost robustness of students against 1 − CKA with their teachers, on"
        f" {', '.join(KINDS[:2])} examples and the difference; {len(families)} pairs of families.",
        f"A point is a student in one seed; lost robustness is the {lost}; divergence is 1 − CKA,"
        " the mean over pairs of layers of equal relative depth, on conflicting examples, on"
        " aligned ones, and the first minus the second. Colour is the debiasing method; ρ is"
        " Spearman's rank correlation of distilled nets, with its 95% interval. Points:"
        f" divergence.csv.{more}",
    )


def _said(told: Sequence[Told], families: str, kind: str) -> str:
    """ "ρ 0.52 [0.11, 0.80], 18 runs" of distilled nets over all layers."""
    key = families, ROLES[2], ALL, kind
    for one in told:
        if (one.families, one.students, one.layers, one.kind) == key:
            return f"ρ {number(one.correlation)}, {one.correlation.runs} runs"
    return "no distilled net"


def number(one: Correlation) -> str:
    """ "0.52 [0.11, 0.80]"; a dash for what is undefined."""
    if math.isnan(one.value):
        return "–"
    interval = "" if math.isnan(one.low) else f" [{one.low:z.2f}, {one.high:z.2f}]"
    return f"{one.value:z.2f}{interval}".replace("-", "−")


def _by_depth(told: Sequence[Told], lost: str, tests: int) -> figures.Picture:
    """A panel for each pair of families and sort of students: correlations by layers."""
    groups: dict[tuple[str, str], list[Told]] = {}
    for one in told:
        groups.setdefault((one.families, one.students), []).append(one)
    columns = min(2, len(groups))
    lines = -(-len(groups) // columns)
    most = max(len({one.layers for one in part}) for part in groups.values())
    with matplotlib.rc_context(figures.STYLE):
        size = (figures.WIDTH, lines * (0.36 * most + 0.8) + 0.5)
        figure, axes = figures.grid(lines, columns, size, sharex=True)
        for ax, ((families, students), part) in zip(axes, groups.items()):
            runs = max(one.correlation.runs for one in part)
            ax.set_title(f"{families}, {students}, {runs} runs")
            _panel(ax, part)
        label = "rank correlation of divergence and lost robustness"
        figures.label_bottom(axes[: len(groups)], columns, label)
        handles = [
            Line2D([], [], color=COLOURS[kind], marker="o", markersize=4.5, label=kind)
            for kind in KINDS
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(KINDS))
    sets = "; ".join(_of_group(name, part) for name, part in groups.items())
    return figures.Picture(
        "Does divergence inside tell of lost robustness?",
        figure,
        "Dot plots with intervals: rank correlations of divergence and lost robustness over runs,"
        f" by depth of the layers; {len(groups)} panels.",
        "Spearman's rank correlation over runs of 1 − CKA with the teacher and lost robustness, the"
        f" {lost}: above 0, those that lost more lie further from their teacher. Layers are paired"
        f" by relative depth; early, middle and late are thirds of the student's. {sets}. Bars are"
        " 95% intervals over sets of runs that share a net (BCa bootstrap), for runs of one teacher"
        " are not independent. Whatever differs between methods may be behind a correlation over"
        " them, and one that baselines have too owes nothing to distillation;"
        f" {tests} correlations were looked at here, uncorrected. Numbers: explanation.csv.",
    )


def _panel(ax: Axes, part: Sequence[Told]) -> None:
    layers = [*dict.fromkeys(one.layers for one in part)]
    for one in part:
        place = layers.index(one.layers) + 0.24 * (KINDS.index(one.kind) - 1)
        look = {"color": COLOURS[one.kind], "markersize": 4.5, "linewidth": 1.5}
        ax.plot([one.correlation.low, one.correlation.high], [place, place], **look)
        ax.plot([one.correlation.value], [place], marker="o", **look)
    ax.axvline(0, color=figures.INK, linewidth=0.9)
    ax.set_yticks(range(len(layers)), layers)
    ax.set_ylim(len(layers) - 0.5, -0.5)
    ax.set_xlim(-1.04, 1.04)
    ax.grid(axis="x", alpha=0.25, color=figures.INK, linewidth=0.5)


def _of_group(name: tuple[str, str], part: Sequence[Told]) -> str:
    """ "resnet → resnet, distilled: 18 runs in 9 such sets; undefined: ...": reasons once."""
    most = max((one.correlation for one in part), key=lambda c: c.runs)
    told = f"{', '.join(name)}: {most.runs} runs in {most.clusters} such sets"
    head = [one.correlation for one in part if one.layers == ALL]
    told += f", over all layers {', '.join(f'{k} {number(c)}' for k, c in zip(KINDS, head))}"
    reasons = dict.fromkeys(c.undefined for c in (one.correlation for one in part) if c.undefined)
    return told + (f" ({'; '.join(reasons)})" if reasons else "")
