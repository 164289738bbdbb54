"""What a student answers with its teacher's layers: accuracies by depth, and what closes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fairkd_jax.report import figures, statistics, why
from fairkd_jax.report.against import Comparison
from fairkd_jax.report.records import ROLES, Finished, labels, span
from fairkd_jax.report.statistics import Estimate

SOURCES = {  # what is put in, in words
    "teacher": "teacher's layer",
    "own": "own layer, mapped to itself",
    "shuffled": "map of shuffled pairs",
    "mean": "mean of the layer",
}
COLOURS = {"teacher": "#0072B2", "own": "#009E73", "shuffled": "#D55E00", "mean": "#999999"}
NETS = {"teacher": "--", "student": "-."}  # as they are
PANELS = {
    "conflicting": "conflicting",
    "aligned": "aligned",
    "worst_group": "worst group",
    "closed": "share that closes",
}
MAY_BE_NONE = "on conflicting examples there may be no gap, so no share of it closes"
Results = Sequence[Mapping[str, Any]]


def pictures(
    finished: Finished, comparisons: Sequence[Comparison]
) -> Iterator[figures.Picture | None]:
    """One of each comparison; None without such stages."""
    for label, comparison in zip(labels(comparisons), comparisons):
        yield picture(finished, comparison, label)


def picture(finished: Finished, comparison: Comparison, title: str) -> figures.Picture | None:
    """A line of panels for each student: accuracies by depth of the layer, and what closes."""
    found = why.results_of(finished, comparison, f"stitch/{comparison.inside}", ROLES[1:])
    if not found:
        return None
    with matplotlib.rc_context(figures.STYLE):
        size = (figures.WIDTH, 2.5 * len(found) + 0.9)
        figure, axes = figures.grid(len(found), len(PANELS), size, sharex=True)
        for line, (role, results) in enumerate(found.items()):
            for ax, (quantity, words) in zip(axes[len(PANELS) * line :], PANELS.items()):
                _panel(ax, results, quantity)
                ax.set_title(f"{role}: {words}")
            axes[len(PANELS) * line].set_ylabel("accuracy")
        for ax in axes[-len(PANELS) :]:
            ax.set_xlabel("student's layer")
        look = {"markersize": 4.5, "marker": "o"}
        handles = [
            *(Line2D([], [], color=COLOURS[k], label=told, **look) for k, told in SOURCES.items()),
            *(Line2D([], [], color=figures.INK, linestyle=s, label=k) for k, s in NETS.items()),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    every = [result for results in found.values() for result in results]
    counts, fitted = (
        " and ".join(f"{span([r[f'n_{fit}{k}'] for r in every])} {k}" for k in figures.KINDS)
        for fit in ("", "fit_")
    )
    left_out = "; ".join(dict.fromkeys(reason for r in every for reason in r["left_out"]))
    facts = "; ".join(f"{role}: {_facts(results)}" for role, results in found.items())
    return figures.Picture(
        f"The teacher's layers in the student: {title}",
        figure,
        f"Line plots by layer of the accuracy of {', '.join(found)} on conflicting and on aligned"
        " examples and in the worst group, with the teacher's layer in the place of its own, and"
        " controls; and of the share of the gap to the teacher that closes.",
        "One layer of the student at a time is replaced by the teacher's of equal relative depth,"
        f" through a linear map fitted, without labels, to {fitted} examples of another split;"
        f" answers to {counts} examples, means over {why._seeds(found)}. The share that closes is"
        " of the gap between teacher and student on conflicting examples: 0 is the student as it"
        " is, 1 the teacher (drawn from −1 to 2); what the mean of the layer closes, which knows"
        f" nothing of the example, is no robustness. {facts}. Bars are 95% intervals: over seeds,"
        " of one seed over its examples; that of the share is Fieller's."
        + (f" Left out: {left_out}." if left_out else ""),
    )


def _panel(ax: Axes, results: Results, quantity: str) -> None:
    """Each source by layer with intervals, and teacher and student as they are."""
    layers = results[0]["second_layers"]
    for i, source in enumerate(SOURCES):
        estimates = by_layer(results, source, quantity)
        places = np.arange(len(layers)) + 0.07 * (i - 1.5)
        look = {"color": COLOURS[source], "linewidth": 1.3}
        ax.plot(places, [e.value for e in estimates], marker="o", markersize=4, **look)
        ax.vlines(places, *([getattr(e, k) for e in estimates] for k in ("low", "high")), **look)
    for net, style in NETS.items():
        if quantity == "closed":
            level = float(net == "teacher")
        else:
            level = np.mean([figures.array(r[net][quantity]["value"]) for r in results])
        ax.axhline(level, color=figures.INK, linewidth=0.9, linestyle=style)
    if quantity == "closed":
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, -1.0), min(high, 2.0))
    names = [name.removesuffix("/out") for name in layers]
    upright = sum(map(len, names)) > 22  # too long to stand side by side
    ax.set_xticks(range(len(layers)), names, rotation=90 * upright, fontsize=7.5)
    ax.set_xlim(-0.5, len(layers) - 0.5)
    ax.grid(alpha=0.25, color=figures.INK, linewidth=0.5)


def by_layer(results: Results, source: str, quantity: str) -> list[Estimate]:
    """Of a quantity with a source put in, a layer each: over seeds, of one seed over examples.

    The share of the gap is that of the means over seeds, for a mean of shares is ruled by the seed
    with the smallest gap.
    """

    def values(name: str) -> Float[np.ndarray, "R P"]:
        return np.array([figures.array(r["patched"][source][name]["value"]) for r in results])

    if len(results) == 1:
        one = results[0]["patched"][source][quantity]
        ends = zip(*(figures.array(one[k]) for k in ("value", "low", "high")))
        return [Estimate(*map(float, of_layer), 1) for of_layer in ends]
    if quantity == "closed":
        gaps = gap_of(results)
        if not statistics.over_seeds(gaps).low > 0:  # what may be none has no shares
            return [Estimate(np.nan, np.nan, np.nan, len(gaps))] * len(results[0]["second_layers"])
        return [statistics.ratio(restored, gaps) for restored in values("restored").T]
    return [statistics.over_seeds(of_layer, (0.0, 1.0)) for of_layer in values(quantity).T]


def gap_of(results: Results) -> Float[np.ndarray, "R"]:
    """By seed, teacher minus student on conflicting examples."""
    nets = [
        [figures.array(r[net]["conflicting"]["value"]) for r in results]
        for net in ("teacher", "student")
    ]
    return np.subtract(*map(np.array, nets))


def _facts(results: Results) -> str:
    """ "gap 0.21 [...], of which the teacher's layer closes 0.10 [...] at stem, ..."."""
    gap = statistics.over_seeds(gap_of(results), (-1.0, 1.0))
    undefined = results[0]["undefined"] if len(results) == 1 else "" if gap.low > 0 else MAY_BE_NONE
    if undefined:
        told = f"teacher minus student is {_told(gap)}: {undefined}"
        return told.replace("nan", "–").replace("-", "−")
    closed = [
        f"{_told(estimate)} at {name}"
        for name, estimate in zip(
            results[0]["second_layers"], by_layer(results, "teacher", "closed")
        )
    ]
    return f"of a gap of {_told(gap)} the teacher's layer closes {', '.join(closed)}"


def _told(one: Estimate) -> str:
    interval = f" [{one.low:z.2f}, {one.high:z.2f}]" if np.isfinite(one.low) else ""
    return f"{one.value:z.2f}{interval}".replace("-", "−")
