"""Why students differ from their teacher: where nets look, by layer and head, what layers tell."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fairkd_jax.report import figures, statistics
from fairkd_jax.report.against import Comparison
from fairkd_jax.report.records import ROLES, RUNG, Finished, labels, span

KINDS = figures.KINDS
MEASURES = {  # what a divergence of layers is, in words: on the colour bar, in the caption
    "js": (
        "nats",
        "Jensen–Shannon divergence of attention maps in nats, from 0 to ln 2 = 0.69, mean over real"
        " tokens. Columns are pairs of heads, matched so that their sum is least; in each seed the"
        " pair that differs most is at the left (heads have no order). The last column is of the"
        " maps averaged over heads.",
    ),
    "at": (
        "distance",
        "Squared distance of activation maps as in attention transfer, from 0 to 2.",
    ),
}
TASKS = ("label", "attribute")


def pictures(
    finished: Finished, comparisons: Sequence[Comparison]
) -> Iterator[figures.Picture | None]:
    """Of each comparison where teacher and student look, and what their layers tell."""
    for label, comparison in zip(labels(comparisons), comparisons):
        yield looks(finished, comparison, label)
        yield tells(finished, comparison, label)


def looks(finished: Finished, comparison: Comparison, title: str) -> figures.Picture | None:
    """Divergence by pair of layers and heads, aligned, conflicting, difference; None without."""
    found = results_of(finished, comparison, f"attention/{comparison.inside}", ROLES[1:])
    if not found:
        return None
    first = next(iter(found.values()))[0]
    unit, meaning = MEASURES[first["measure"]]
    layers = [f"{_short(a)} · {_short(b)}" for a, b in zip(*(first[k] for k in LAYERS))]
    by_role = {role: _by_head(results) for role, results in found.items()}
    values = [v for maps in by_role.values() for v in maps.values()]
    columns = values[0].shape[1]
    names = [str(i + 1) for i in range(columns - 1)] + ["mean"] if columns > 1 else [""]
    differences = {role: maps["conflicting"] - maps["aligned"] for role, maps in by_role.items()}
    ends = (0.0, max([0.01, *_finite(values)]))
    most = max([0.01, *_finite(differences.values())])
    with matplotlib.rc_context(figures.STYLE):
        size = (figures.WIDTH, 1.6 + len(found) * (0.6 + 0.24 * len(layers)))
        figure, axes = figures.grid(len(found), 3, size, sharex=True, sharey=True)
        for line, (role, maps) in enumerate(by_role.items()):
            own = axes[3 * line : 3 * line + 3]
            for ax, (kind, one) in zip(own, maps.items()):
                shown = figures.heat_map(ax, one, f"{role}, {kind}", layers, names, "viridis", ends)
            figure.colorbar(shown, ax=own[:2], label=unit, fraction=0.03)
            shown = figures.heat_map(
                own[2],
                differences[role],
                f"{role}, conflicting − aligned",
                layers,
                names,
                "PuOr",
                (-most, most),
            )
            figure.colorbar(shown, ax=own[2], label="difference", fraction=0.06)
            own[0].set_ylabel("teacher · student")
        for ax in axes[-3:]:
            ax.set_xlabel("pair of heads" if columns > 1 else "")
    every = [result for results in found.values() for result in results]
    counts = [f"{span([r[f'n_{kind}'] for r in every])} {kind}" for kind in KINDS]
    facts = "; ".join(f"{role}: {_facts(results)}" for role, results in found.items())
    left_out = "; ".join(dict.fromkeys(reason for r in every for reason in r["left_out"]))
    return figures.Picture(
        f"Where teacher and student look: {title}",
        figure,
        f"Heat maps of the divergence of teacher's and student's maps ({', '.join(found)}) on"
        " aligned and conflicting examples, and their difference.",
        f"{meaning} Layers are paired by relative depth, first at the bottom; means over"
        f" {_seeds(found)}, on {' and '.join(counts)} examples. Mean over layers and matched heads,"
        f" and against the map of another example of equal length (null): {facts}."
        + (f" Left out: {left_out}." if left_out else ""),
    )


LAYERS = ("first_layers", "second_layers")


def _short(name: str) -> str:
    return name.removesuffix("/out").removesuffix("/attn_probs").removesuffix("_probs")


def _finite(values: Any) -> list[float]:
    return [v for one in values for v in np.abs(one).flat if np.isfinite(v)]


def _by_head(results: Sequence[Mapping[str, Any]]) -> dict[str, Float[np.ndarray, "P K"]]:
    """By kind the mean over seeds of matched heads, most different first, and averaged maps."""
    found: dict[str, list] = {kind: [] for kind in KINDS}
    for result in results:
        by_kind = [_matched(result, kind) for kind in KINDS]
        weights = [result[f"n_{kind}"] for kind in KINDS]
        overall = sum(np.nan_to_num(v) * w for v, w in zip(by_kind, weights))
        order = np.argsort(-overall, axis=1, kind="stable")
        for kind, values in zip(KINDS, by_kind):
            sorted_values = np.take_along_axis(values, order, axis=1)
            if "mean_js" in result[kind]:
                averaged = figures.array(result[kind]["mean_js"])[:, None]
                sorted_values = np.concatenate([sorted_values, averaged], axis=1)
            found[kind].append(sorted_values)
    return {kind: np.mean(values, axis=0) for kind, values in found.items()}


def _matched(result: Mapping[str, Any], kind: str) -> Float[np.ndarray, "P K"]:
    """Each pair of heads of each pair of layers; NaN behind the last where some have fewer."""
    rows = [
        figures.array(values)[tuple(match)]
        for values, match in zip(result[kind][result["measure"]], result["match"])
    ]
    widest = max(map(len, rows))
    return np.array([np.pad(r, (0, widest - len(r)), constant_values=np.nan) for r in rows])


def _facts(results: Sequence[Mapping[str, Any]]) -> str:
    """ "aligned 0.10 (null 0.31), conflicting 0.12 (null 0.30)"."""
    told = []
    for kind in KINDS:
        values, nulls = (
            np.mean([figures.array(get(r[kind])) for r in results])
            for get in (lambda k: k["matched"]["value"], lambda k: k["null_matched"])
        )
        told.append(f"{kind} {values:.3f} (null {nulls:.3f})")
    return ", ".join(told).replace("nan", "–")


def tells(finished: Finished, comparison: Comparison, title: str) -> figures.Picture | None:
    """Accuracy of probes for label and attribute by relative depth, a line a net; None without."""
    found = results_of(finished, comparison, "probe", ROLES)
    if not found:
        return None
    every = [result for results in found.values() for result in results]
    with matplotlib.rc_context(figures.STYLE):
        figure, axes = figures.grid(1, 2, (figures.WIDTH, 3.4), sharex=True, sharey=True)
        for ax, task in zip(axes, TASKS):
            for i, (role, results) in enumerate(found.items()):
                _line(ax, results, task, role, 0.006 * (i - (len(found) - 1) / 2))
            for name, style in (("chance", ":"), ("by_other", "-.")):
                level = np.mean([figures.array(r[task][name]) for r in every])
                ax.axhline(level, color=figures.INK, linewidth=0.8, linestyle=style)
            ax.set(title=task, xlabel="relative depth", xlim=(0, 1.03))
            ax.grid(alpha=0.25, color=figures.INK, linewidth=0.5)
        axes[0].set_ylabel("accuracy, mean over classes")
        handles = [
            *(Line2D([], [], label=role, **_look(role), markersize=4.5) for role in found),
            *(
                Line2D([], [], color=figures.INK, linewidth=0.9, linestyle=style, label=label)
                for label, style in (
                    ("control task", "--"),
                    ("chance", ":"),
                    ("by the other of label and attribute", "-."),
                )
            ),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    counts = [f"{span([r[f'n_{kind}'] for r in every])} {kind}" for kind in KINDS]
    reasons = dict.fromkeys(
        f"{task}: {r[task]['undefined']}" for task in TASKS for r in every if r[task]["undefined"]
    )
    return figures.Picture(
        f"What layers tell: {title}",
        figure,
        f"Line plots of the accuracy of linear probes by depth for {', '.join(found)}: of the label"
        " and of the attribute, with control tasks and chance.",
        "Accuracy of linear probes on held-out examples, mean over classes, for label and attribute"
        f" from each layer's pooled features; on {' and '.join(counts)} examples,"
        f" {span([r['folds'] for r in every])} folds, means over {_seeds(found)}. Dashed: the same"
        " probes on a control task, whose labels are random by type of input; accuracy less control"
        " is selectivity. Bars are 95% intervals, over seeds, of one seed over its examples."
        + (f" Undefined: {'; '.join(reasons)}." if reasons else ""),
    )


def _line(
    ax: Axes, results: Sequence[Mapping[str, Any]], task: str, role: str, shift: float
) -> None:
    """Accuracies by depth with intervals, and controls, dashed; `shift` keeps bars apart."""
    values, low, high, control = (
        np.array([figures.array(r[task][name][part]) for r in results])
        for name, part in (
            ("accuracy", "value"), ("accuracy", "low"), ("accuracy", "high"), ("control", "value")
        )
    )  # fmt: skip
    layers = values.shape[1]
    depth = (np.arange(layers) + 1) / layers + shift
    if len(results) > 1:
        estimates = [statistics.over_seeds(values[:, i], (0.0, 1.0)) for i in range(layers)]
        low, high = ([getattr(e, k) for e in estimates] for k in ("low", "high"))
    else:
        low, high = low[0], high[0]
    ax.plot(depth, values.mean(axis=0), markersize=4, linewidth=1.3, **_look(role))
    ax.vlines(depth, low, high, color=_look(role)["color"], linewidth=1.2)
    style = {"color": _look(role)["color"], "linestyle": "--", "linewidth": 0.9}
    ax.plot(depth, control.mean(axis=0), **style)


def _look(role: str) -> dict[str, str]:
    kind = role.partition(" ")[0]
    return {"color": figures.COLOURS[kind], "marker": figures.MARKERS[kind]}


def results_of(
    finished: Finished, comparison: Comparison, name: str, roles: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """By role, and by rung, what a stage of that name left, in the order of seeds."""
    rungs = {f"{RUNG} {place}": ids for place, ids in enumerate(comparison.rungs, 1)}
    nets = {role: comparison.nets(role) for role in roles}
    last = nets.pop(ROLES[-1])
    found = {}
    for role, ids in (nets | rungs | {ROLES[-1]: last}).items():
        stages = [(finished.runs[run].get("inside", {}).get(name), run) for run in ids]
        if results := [finished.result(stage, run, name) for stage, run in stages if stage]:
            found[role] = results
    return found


def _seeds(found: Mapping[str, Sequence[Any]]) -> str:
    seeds = span([len(results) for results in found.values()])
    return f"{seeds} seed{'s' * (seeds != '1')}"
