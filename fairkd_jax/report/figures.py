"""The figures of a report, drawn with matplotlib and returned as SVG for inlining in the page.

Roles keep one colour and one marker everywhere (Okabe and Ito's colour-blind-safe set). Text and
axes take the page's text colour, so that a figure reads on a light and on a dark page.
"""

import dataclasses
import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fairkd_jax.evaluation import metrics
from fairkd_jax.report import statistics
from fairkd_jax.report.against import Ids
from fairkd_jax.report.records import ROLES, Comparison, Finished, labels, span
from fairkd_jax.report.statistics import Estimate

COLOURS = {"teacher": "#0072B2", "baseline": "#D55E00", "distilled": "#009E73", "rung": "#CC79A7"}
MARKERS = {"teacher": "o", "baseline": "s", "distilled": "D", "rung": "v"}
SHAPES = "osD^vP*X<>hp"  # of debiasing methods, where colour says the role
INK = "#010203"  # stands for the page's text colour until the SVG is written
KINDS = ("aligned", "conflicting")  # examples on which the shortcut is right, and wrong
GAPS = {  # what a gap is the difference of
    "gap_aligned": "accuracy on aligned − on conflicting examples",
    "gap_worst_group": "average − worst-group accuracy",
}
PARTS = {"accuracy": "group", "acc_subpopulation": "subpopulation"}  # of a split, by their metric
WIDTH = 10.8  # inches: the page's column
MOST_GROUPS = 12  # in one panel; of more, those in which the teacher does worst
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.fonttype": "none",  # text stays text: it can be searched, and scales
    "svg.hashsalt": "fairkd_jax",  # the same numbers give the same bytes
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure, what it shows for those who do not see it, and what its caption must say."""

    name: str
    figure: Figure
    alt: str
    caption: str

    def svg(self) -> str:
        """An `<svg>` element to put into a page: no prolog, no metadata, no foreign address."""
        file = io.StringIO()
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(
                file,
                format="svg",
                transparent=True,
                bbox_inches="tight",
                metadata={"Date": None, "Creator": None},
            )
        svg = file.getvalue()
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # several figures share a page: ids would repeat
        svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace(INK, "currentColor")
        svg = svg.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
        return svg[svg.index("<svg") :].replace("<svg", '<svg role="presentation"', 1)


def words(metric: str) -> str:
    """A metric's name to be read in a sentence: "worst-group accuracy"."""
    found = re.sub(r"^worst_(group|class|subpopulation)_", r"worst-\1 ", metric)
    return re.sub(r"^acc_subpopulation$", "accuracy", found).replace("_", " ")


def difference_of(metric: str) -> str:
    """What a difference in a metric is a difference of: of a signed gap, its distance from 0."""
    name = words(metric)
    return f"the distance of {name} from 0" if metrics.kind(metric).signed else name


def accuracy_by_group(
    finished: Finished,
    comparisons: Sequence[Comparison],
    evaluation: str,
    metric: str = "accuracy",
) -> Picture:
    """Accuracy of teacher, baseline and distilled in each group, a panel for each comparison.

    Or, where the metric is "acc_subpopulation", in each subpopulation.
    """
    metrics, part = finished.metrics(evaluation), PARTS[metric]
    rows = metrics[(metrics["metric"] == metric) & (metrics["group"] != "")]
    sizes = {g: n for g, n in zip(rows["group"], rows["n"]) if n > 0}
    groups, left_out = list(sizes), ""
    if len(groups) > MOST_GROUPS:
        teachers = [run for c in comparisons for run in c.runs["teacher"]]

        def hardness(group: str) -> float:
            return float(np.nanmean(finished.values(teachers, evaluation, metric, group)))

        groups = [g for g in groups if g in sorted(groups, key=hardness)[:MOST_GROUPS]]
        left_out = f" Of {len(sizes)} {part}s, the {MOST_GROUPS} in which teachers do worst."
    with matplotlib.rc_context(STYLE):
        columns = 2 if len(comparisons) in (2, 4) else min(3, len(comparisons))
        lines = math.ceil(len(comparisons) / columns)
        height = lines * (0.34 * len(groups) + 0.75) + 0.75
        figure, axes = grid(lines, columns, (WIDTH, height), sharex=True, sharey=True)
        for ax, title in zip(axes, labels(comparisons)):
            ax.set_title(textwrap.fill(title, 34))
        for ax, comparison in zip(axes, comparisons):
            for role, shift in zip(ROLES, (-0.22, 0.0, 0.22)):
                found = [
                    finished.values(comparison.runs[role], evaluation, metric, g) for g in groups
                ]
                estimates = [statistics.over_seeds(v, (0.0, 1.0)) for v in found]
                dots(ax, estimates, np.arange(len(groups)) + shift, role)
            ax.set_yticks(range(len(groups)), [f"{g} (n={sizes[g]})" for g in groups])
            ax.set_ylim(len(groups) - 0.5, -0.5)
            ax.set_xlim(-0.02, 1.02)
            ax.set_xticks(np.linspace(0, 1, 5), ["0", "", "0.5", "", "1"])
            ax.grid(axis="x", alpha=0.25, color=INK, linewidth=0.5)
        label_bottom(axes[: len(comparisons)], columns, "accuracy")
        _role_legend(figure, ROLES)
    return Picture(
        f"Accuracy by {part}",
        figure,
        f"Dot plot with intervals: accuracy in {len(groups)} {part}s of {evaluation} for teacher,"
        f" baseline and distilled student; {len(comparisons)} panels.",
        f"Accuracy by {part} on {evaluation}, n examples a {part}.{left_out} Markers are means over"
        " seeds, bars their 95% intervals.",
    )


def gap_against_teacher(
    finished: Finished, comparisons: Sequence[Comparison], evaluation: str, metric: str
) -> Picture:
    """Each student's gap against its teacher's, a point a seed, with the line of equal gaps.

    Of a signed gap its distance from 0, as in the differences of the tables.
    """
    name = f"|{metric}|" if metrics.kind(metric).signed else metric
    meaning = GAPS[metric] + (", its distance from 0" if metrics.kind(metric).signed else "")

    def gaps(runs: Sequence[Ids]) -> Float[np.ndarray, "n"]:
        return metrics.compared(metric, finished.values(runs, evaluation, metric))

    shapes = dict(zip(labels(comparisons), SHAPES * len(comparisons)))
    with matplotlib.rc_context(STYLE):
        figure, (ax,) = grid(1, 1, (7.4, 4.6))
        drawn, seen = set(), []
        for comparison, shape in zip(comparisons, shapes.values()):
            teacher = gaps(comparison.runs["teacher"])
            for role in ROLES[1:]:
                pairs = zip(comparison.runs["teacher"], comparison.runs[role])
                nets = tuple(tuple(map(finished.stages, pair)) for pair in pairs)
                if nets in drawn:  # a baseline that several comparisons share
                    continue
                drawn.add(nets)
                student = gaps(comparison.runs[role])
                ax.scatter(
                    teacher, student, s=34, alpha=0.75, linewidths=0,
                    color=COLOURS[role], marker=shape,
                )  # fmt: skip
                seen += [*teacher, *student]
        seen = [v for v in seen if np.isfinite(v)] or [0.0]
        pad = 0.06 * (max(seen) - min(seen)) or 0.05
        ends = (min(seen) - pad, max(seen) + pad)
        ax.plot(ends, ends, color=INK, linewidth=0.8, linestyle="--", zorder=0)
        ax.set(xlim=ends, ylim=ends, xlabel=f"teacher's {name}", ylabel=f"student's {name}")
        ax.set_aspect("equal")
        ax.grid(alpha=0.25, color=INK, linewidth=0.5)
        handles = [
            *(_key(COLOURS[role], "o", role) for role in ROLES[1:]),
            *(_key(INK, shape, textwrap.fill(label, 34)) for label, shape in shapes.items()),
            Line2D([], [], color=INK, linestyle="--", linewidth=0.8, label="equal gaps"),
        ]
        figure.legend(handles=handles, loc="outside right upper")
    return Picture(
        "The student's gap against the teacher's",
        figure,
        f"Scatter plot: {name} of students against that of their teachers, with the diagonal.",
        f"{name} ({meaning}) on {evaluation}, a point a seed: above the dashed line the"
        " student's gap is larger than its teacher's. Colour is the role, shape the comparison; a"
        " baseline that comparisons share is drawn once, in the shape of the first.",
    )


def differences(
    comparisons: Sequence[Comparison],
    estimates: dict[str, Sequence[Estimate]],
    evaluation: str,
    name: str,
) -> Picture:
    """A panel for each named difference, a dot with interval for each comparison, a line at 0.

    `name` is what they are differences of, in words.
    """
    with matplotlib.rc_context(STYLE):
        size = (WIDTH, 0.42 * len(comparisons) + 1.1)
        figure, axes = grid(1, len(estimates), size, sharex=True, sharey=True)
        for ax, (title, found) in zip(axes, estimates.items()):
            dots(ax, found, np.arange(len(found)), "distilled")
            ax.axvline(0, color=INK, linewidth=0.9)
            ax.set_title(title)
            ax.set_xlabel(f"difference in {name}")
            ax.set_yticks(range(len(found)), [textwrap.fill(t, 44) for t in labels(comparisons)])
            ax.set_ylim(len(found) - 0.5, -0.5)
            ax.margins(x=0.08)
            ax.locator_params(axis="x", nbins=6)
            ax.grid(axis="x", alpha=0.25, color=INK, linewidth=0.5)
    return Picture(
        "Distillability and contribution",
        figure,
        f"Dot plot with intervals around a line at zero: {' and '.join(estimates)} of"
        f" {len(comparisons)} comparisons.",
        f"Distillability (distilled − teacher) and contribution (distilled − baseline) in {name} on"
        f" {evaluation}, paired by seed. Markers are means, bars their 95% intervals; where one"
        " holds 0 the sign of the difference is open.",
    )


def cka_maps(
    finished: Finished,
    comparison: Comparison,
    title: str,
    students: Mapping[str, Sequence[Ids]] | None = None,
) -> Picture | None:
    """CKA of teacher's layers and student's, on aligned and on conflicting examples; None without.

    Means over seeds; the third panel is conflicting minus aligned. `students` are runs, of one
    model, by what they are called: those of the comparison, unless said.
    """
    found = {}
    for role, ids in (students or {role: comparison.runs[role] for role in ROLES[1:]}).items():
        runs = [finished.runs[run] for run in ids]
        stages = [(run.get("comparisons", {}).get(comparison.inside), run["run"]) for run in runs]
        results = [finished.result(s, run, "comparison with teacher") for s, run in stages if s]
        if results:
            found[role] = results
    if not found:
        return None
    with matplotlib.rc_context(STYLE):
        first, second = (
            next(iter(found.values()))[0][k] for k in ("first_layers", "second_layers")
        )
        size = (WIDTH, 1.6 + len(found) * (0.6 + 0.24 * len(first)))
        figure, axes = grid(len(found), 3, size, sharex=True, sharey=True)
        spread = []
        for line, (role, results) in enumerate(found.items()):
            panels = {kind: _mean_map(results, kind) for kind in KINDS}
            for ax, (kind, values) in zip(axes[3 * line :], panels.items()):
                shown = heat_map(
                    ax, values, f"{role}, {kind}", first, second, "viridis", (0.0, 1.0)
                )
            figure.colorbar(shown, ax=axes[3 * line : 3 * line + 2], label="CKA", fraction=0.03)
            spread.append((axes[3 * line + 2], role, panels["conflicting"] - panels["aligned"]))
            axes[3 * line].set_ylabel("teacher's layer")
        finite = [v for _, _, values in spread for v in np.abs(values).flat if np.isfinite(v)]
        most = max([0.05, *finite])
        for ax, role, values in spread:
            name = f"{role}, conflicting − aligned"
            shown = heat_map(ax, values, name, first, second, "PuOr", (-most, most))
            figure.colorbar(shown, ax=ax, label="difference", fraction=0.06)
        for ax in axes[-3:]:
            ax.set_xlabel("student's layer")
    every = [r for results in found.values() for r in results]
    facts = [
        f"{span([r[f'n_{kind}'] for r in every])} {kind} examples (null {_null(every, kind)})"
        for kind in KINDS
    ]
    seeds = span([len(results) for results in found.values()])
    return Picture(
        f"CKA of teacher and student: {title}",
        figure,
        f"Heat maps of CKA between teacher's and student's layers ({', '.join(found)}), on aligned"
        " and conflicting examples, and their difference.",
        f"Debiased linear CKA, mean over {seeds} seed{'s' * (seeds != '1')}, on"
        f" {' and '.join(facts)}. Rows are the teacher's layers, first at the bottom, columns the"
        " student's, first at the left. The null is what shuffled rows give: its mean over pairs of"
        " layers and seeds, and the value furthest from 0.",
    )


def grid(lines: int, columns: int, size: tuple[float, float], **shared: bool) -> tuple:
    """(a figure, its axes line by line)."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, **shared)
    return figure, list(axes.flat)


def dots(ax: Axes, estimates: Sequence[Estimate], places: np.ndarray, role: str) -> None:
    """Horizontal intervals with a marker; an undefined interval leaves the marker alone."""
    for estimate, place in zip(estimates, places):
        ax.plot([estimate.low, estimate.high], [place, place], color=COLOURS[role], linewidth=1.6)
    values = [e.value for e in estimates]
    ax.plot(values, places, linestyle="", marker=MARKERS[role], markersize=4.5, color=COLOURS[role])


def _key(colour: str, marker: str, label: str) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, linestyle="", label=label)


def _role_legend(figure: Figure, roles: Sequence[str]) -> None:
    handles = [
        Line2D([], [], color=COLOURS[r], marker=MARKERS[r], markersize=4.5, label=r) for r in roles
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(roles))


def label_bottom(axes: Sequence[Axes], columns: int, label: str) -> None:
    """Names the x axis of the lowest panel in each column and hides what is under no panel."""
    for ax in axes[-columns:]:
        ax.set_xlabel(label)
        ax.tick_params(labelbottom=True)
    for unused in axes[0].figure.axes[len(axes) :]:
        unused.set_visible(False)


def array(values: object) -> Float[np.ndarray, "..."]:
    """Of a result: what is `null` in JSON is NaN."""
    return np.array(values, np.float64)


def _null(results: Sequence[dict], kind: str) -> str:
    values = np.concatenate([array(r[f"null_{kind}"]).ravel() for r in results])
    values = values[np.isfinite(values)]
    if not len(values):
        return "undefined"
    furthest = values[np.abs(values).argmax()]
    return f"{values.mean():z.3f}, furthest {furthest:z.3f}".replace("-", "−")


def _mean_map(results: Sequence[dict], key: str) -> Float[np.ndarray, "first second"]:
    return np.mean([array(r[key]) for r in results], axis=0)


def heat_map(
    ax: Axes,
    values: Float[np.ndarray, "first second"],
    title: str,
    first: Sequence[str],
    second: Sequence[str],
    colours: str,
    ends: tuple[float, float],
) -> object:
    """Numbers by layer and layer, the first at the bottom; printed where there are few."""
    shown = ax.imshow(
        values, cmap=colours, vmin=ends[0], vmax=ends[1], origin="lower", aspect="auto",
        interpolation="none",
    )  # fmt: skip
    ax.set_title(title)
    ticks = [[name.removesuffix("/out") for name in names] for names in (first, second)]
    upright = sum(map(len, ticks[1])) > 36  # too long to stand side by side
    ax.set_xticks(range(len(second)), ticks[1], rotation=90 * upright, fontsize=7.5)
    ax.set_yticks(range(len(first)), ticks[0], fontsize=7.5)
    ax.spines[:].set_visible(False)
    if max(values.shape) <= 8:  # few enough to print the numbers
        for (i, j), value in np.ndenumerate(values):
            if math.isnan(value):
                continue
            share = (value - ends[0]) / (ends[1] - ends[0])
            dark = share < 0.55 if colours == "viridis" else abs(share - 0.5) > 0.35
            ax.text(
                j, i, f"{value:z.2f}".replace("-", "−"), ha="center", va="center", fontsize=7,
                color="white" if dark else "black",
            )  # fmt: skip
    return shown
