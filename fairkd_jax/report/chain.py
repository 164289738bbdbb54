"""Along a chain: what teacher, rungs and student each reach, and what is lost from net to net."""

import dataclasses
import textwrap
from collections.abc import Iterator, Sequence

import matplotlib
import numpy as np

from fairkd_jax.evaluation import metrics
from fairkd_jax.report import figures, statistics
from fairkd_jax.report.against import Comparison, members
from fairkd_jax.report.records import RUNG, Finished, labels
from fairkd_jax.report.statistics import Estimate

COLUMNS = 3  # panels beside each other


@dataclasses.dataclass(frozen=True)
class Link:
    """One net of a chain in one metric, over seeds; the teacher has no differences.

    They are paired by seed, and of a signed gap those of its distances from 0.
    """

    name: str  # teacher | rung 1 | ... | distilled
    model: str
    debias: str
    value: Estimate
    to_teacher: Estimate | None = None  # its value minus the teacher's
    to_before: Estimate | None = None  # its value minus that of the net that taught it


def along(
    finished: Finished, comparison: Comparison, evaluation: str, metric: str, group: str
) -> list[Link]:
    """The nets of a chain, from the teacher down."""
    kind, runs = metrics.kind(metric), comparison.runs
    chain = {"teacher": runs["teacher"], **_rungs(comparison), "distilled": runs["distilled"]}
    values = {k: finished.values(ids, evaluation, metric, group) for k, ids in chain.items()}
    compared = {k: metrics.compared(metric, found) for k, found in values.items()}
    found: list[Link] = []
    for name, ids in chain.items():
        first = [finished.runs[one] for one in members(ids[0])]
        minus = {"to_teacher": "teacher", "to_before": found[-1].name} if found else {}
        link = Link(
            name=name,
            model=first[0]["model"] if found else comparison.teacher_model,
            debias="+".join(dict.fromkeys(run["debias"] for run in first)),
            value=statistics.over_seeds(values[name], kind.limits),
            **{
                k: statistics.difference(compared[name], compared[other], kind.compared_limits)
                for k, other in minus.items()
            },
        )
        found.append(link)
    return found


def _rungs(comparison: Comparison) -> dict[str, tuple[str, ...]]:
    return {f"{RUNG} {place}": ids for place, ids in enumerate(comparison.rungs, 1)}


def tables(
    finished: Finished, comparisons: Sequence[Comparison], *metric: str
) -> list[tuple[str, list[Link]]]:
    """(label, the nets) of each comparison that has rungs."""
    return [
        (label, along(finished, comparison, *metric))
        for label, comparison in zip(labels(comparisons), comparisons)
        if comparison.rungs
    ]


def picture(
    finished: Finished, comparisons: Sequence[Comparison], evaluation: str, metric: str, group: str
) -> figures.Picture | None:
    """A panel for each comparison that has rungs, a dot with interval for each net; else None."""
    chains = tables(finished, comparisons, evaluation, metric, group)
    if not chains:
        return None
    name = figures.words(metric) + (f" of {group}" if group else "")
    columns = min(COLUMNS, len(chains))
    lines = -(-len(chains) // columns)
    longest = max(len(links) for _, links in chains)
    with matplotlib.rc_context(figures.STYLE):
        size = (figures.WIDTH, lines * (0.34 * longest + 0.75) + 0.4)
        figure, axes = figures.grid(lines, columns, size, sharex=True)
        for ax, (label, links) in zip(axes, chains):
            ax.set_title(textwrap.fill(label, 34))
            for place, link in enumerate(links):
                figures.dots(ax, [link.value], np.array([place]), link.name.partition(" ")[0])
            ax.set_yticks(range(len(links)), [f"{link.name}, {link.model}" for link in links])
            ax.set_ylim(longest - 0.5, -0.5)
            ax.grid(axis="x", alpha=0.25, color=figures.INK, linewidth=0.5)
        figures.label_bottom(axes[: len(chains)], columns, name)
    return figures.Picture(
        "Along the chain",
        figure,
        f"Dot plot with intervals: {name} of each net from the teacher to the student;"
        f" {len(chains)} panels.",
        f"{name} on {evaluation}: from the teacher, at the top, over the rungs, each taught by the"
        " net above it, to the student. Markers are means over seeds, bars their 95% intervals.",
    )


def maps(finished: Finished, comparisons: Sequence[Comparison]) -> Iterator[figures.Picture | None]:
    """Of each comparison the layers of teacher and student, then of teacher and each rung."""
    for label, comparison in zip(labels(comparisons), comparisons):
        yield figures.cka_maps(finished, comparison, label)
        for name, ids in _rungs(comparison).items():
            yield figures.cka_maps(finished, comparison, f"{label}, {name}", {name: ids})
