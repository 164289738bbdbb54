"""What does the work inside: circuits of teacher and students, drawn, with how faithful they are.

Overlap never stands alone: beside it are the faithfulness of both circuits, that of the teacher's
in the student, and what circuits of as many sites, drawn at random, reach.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fairkd_jax.report import figures, statistics, why
from fairkd_jax.report.against import Comparison
from fairkd_jax.report.records import ROLES, Finished, labels, span
from fairkd_jax.report.statistics import Estimate

Results = Mapping[str, Sequence[Mapping[str, Any]]]  # by role, one a seed
SUPPORTS, OPPOSES = "#0072B2", "#D55E00"  # what is measured falls, rises, where a site is corrupted
MOST = 150  # edges of one circuit that are drawn
KINDS = {  # what a tap or seam is named like -> which node it is a part of
    r"cross_.*": "cross",
    r"(query|key|value)_in|head_.*": "head",
    r"mlp_.*": "mlp",
    r"branch_out": "branch",
}
NAMED = {"head": "heads", "cross": "cross heads", "mlp": "MLP", "branch": "branch"}
Node = tuple[str, str, int]  # (layer, kind, head); no layer: the input, the logits


def _found(finished: Finished, comparison: Comparison) -> dict[str, list[dict[str, Any]]]:
    return why.results_of(finished, comparison, f"circuit/{comparison.inside}", ROLES[1:])


def pictures(
    finished: Finished, comparisons: Sequence[Comparison]
) -> Iterator[figures.Picture | None]:
    """Of each comparison the circuits of teacher and students as graphs; None without."""
    for label, comparison in zip(labels(comparisons), comparisons):
        found = _found(finished, comparison)
        yield _drawn(found, label) if found else None


def _drawn(found: Results, title: str) -> figures.Picture:
    nets = {"teacher": next(iter(found.values()))[0]["first"]}
    nets |= {role: results[0]["second"] for role, results in found.items()}
    method = next(iter(nets["teacher"]["circuits"]))
    chosen = next(iter(nets["teacher"]["circuits"][method]))
    places = {role: _places(net["sites"]) for role, net in nets.items()}
    rows = max(y for place in places.values() for _, y in place.values()) + 1
    with matplotlib.rc_context(figures.STYLE):
        size = (figures.WIDTH, 1.5 + 0.42 * rows)
        figure, axes = figures.grid(1, len(nets), size)
        drawn = {}
        for ax, (role, net) in zip(axes, nets.items()):
            drawn[role] = _draw(ax, net, places[role], method, chosen)
            ax.set_title(role)
        handles = [
            Line2D([], [], color=SUPPORTS, label="supports the answer"),
            Line2D([], [], color=OPPOSES, label="works against it"),
            Line2D([], [], linestyle="", marker="o", color=figures.INK, label="in the circuit"),
            Line2D(
                [], [], linestyle="", marker="o", markerfacecolor="none", color=figures.INK,
                label="not in it",
            ),
        ]  # fmt: skip
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    told = next(iter(found.values()))[0]
    level = told["level"]
    facts = "; ".join(f"{role}: {_facts(net, method, chosen)}" for role, net in nets.items())
    cut = [f"{n} of {role}'s edges" for role, (n, all_) in drawn.items() if n < all_]
    return figures.Picture(
        f"Circuits: {title}",
        figure,
        f"Graphs of the {level} of the circuits of {', '.join(nets)}, layer by layer from the input"
        " at the bottom to the logits at the top.",
        f"The {level} that {method} scores highest ({chosen} of all), of the first seed, on"
        f" {told['n']} pairs of clean and corrupt inputs; a line's width, or a dot's size, is how"
        " much what is measured falls (blue) or rises (orange) where it is corrupted. Left to"
        f" right: heads{_beside(places)}. {facts}."
        + (f" Only the strongest are drawn: {', '.join(cut)}." if cut else "")
        + "".join(f" No edges of the {_role(k)} net, for {v}." for k, v in told["why"].items()),
    )


def _role(name: str) -> str:
    return {"first": "teacher's", "second": "student's"}[name]


def _beside(places: Mapping[str, Mapping[Node, Any]]) -> str:
    kinds = {kind for place in places.values() for _, kind, _ in place}
    return "".join(f", {NAMED[k]}" for k in ("cross", "mlp", "branch") if k in kinds)


def _facts(net: Mapping[str, Any], method: str, chosen: str) -> str:
    one = net["circuits"][method][chosen]
    value, chance = figures.array([one["faithfulness"]["value"], one["random"]["value"]])
    told = f"{one['size']} of {len(net['sites'])}, faithfulness {value:.2f} (random {chance:.2f})"
    return told.replace("nan", "–") + (f", {net['undefined']}" if net["undefined"] else "")


def _ends(site: str) -> list[Node]:
    """The node of a site, or the two of an edge."""
    return [_node(name) for name in site.split(" -> ")]


def _node(name: str) -> Node:
    tap, head = re.fullmatch(r"([^\[]*)(?:\[(\d+)\])?", name).groups()
    layer, _, what = tap.rpartition("/")
    for pattern, kind in KINDS.items():
        if re.fullmatch(pattern, what):
            return layer, kind, int(head or 0)
    return "", tap, 0


def _places(sites: Sequence[str]) -> dict[Node, tuple[float, float]]:
    """Where each node is drawn: stacks side by side, layers from the bottom, heads, then others."""
    nodes = [*dict.fromkeys(node for site in sites for node in _ends(site))]
    stacks: dict[str, list[str]] = {}
    for layer, _, _ in nodes:
        own = stacks.setdefault(layer[:4] if layer[:4] in ("enc/", "dec/") else "", [])
        if layer and layer not in own:
            own.append(layer)
    for own in stacks.values():
        own.sort(key=lambda layer: [int(n) for n in re.findall(r"\d+", layer)])
    found, left = {}, 0.0
    highest = max(map(len, stacks.values())) + 1
    for stack, layers in sorted(stacks.items(), reverse=True):  # the encoder before the decoder
        inside = [node for node in nodes if node[0] in layers]
        most = {k: 1 + max([h for _, kind, h in inside if kind == k], default=-1) for k in NAMED}
        starts, at = {}, left
        for kind, count in most.items():
            starts[kind] = at
            at += count + 0.6 * bool(count)
        for node in inside:
            found[node] = (starts[node[1]] + node[2], layers.index(node[0]) + 1.0)
        middle = (left + max(at - 1.6, left)) / 2
        for node in nodes:
            if not node[0] and node[1].startswith(stack) and node not in found:
                found[node] = (middle, float(highest) if node[1] == "logits_in" else 0.0)
        left = max(at, left + 1.0) if inside else left
    return found


def _draw(
    ax: Axes, net: Mapping[str, Any], places: Mapping[Node, Any], method: str, chosen: str
) -> tuple[int, int]:
    """(edges drawn, edges there)."""
    kept = np.array(net["circuits"][method][chosen]["kept"], int)
    scores = figures.array(net["scores"][method]["value"])[kept]
    order = np.argsort(-np.abs(scores))[:MOST]
    most = max([1e-30, *np.abs(scores)])
    inside: dict[Node, float] = {}
    for i in order[::-1]:  # the strongest on top
        ends = _ends(net["sites"][kept[i]])
        colour, share = (SUPPORTS if scores[i] < 0 else OPPOSES), abs(scores[i]) / most
        if len(ends) == 2:
            (x, y), (u, v) = (places[node] for node in ends)
            ax.plot(
                [x, u], [y, v], color=colour, linewidth=0.4 + 2.6 * share, alpha=0.35 + 0.6 * share
            )
        inside |= {node: share for node in ends}
    for node, (x, y) in places.items():
        there = node in inside
        ax.plot(
            [x], [y], marker="o", linestyle="", markersize=3.0 + 3.5 * inside.get(node, 0.0),
            color=figures.INK, markerfacecolor=figures.INK if there else "none",
            markeredgewidth=0.6, alpha=1.0 if there else 0.3,
        )  # fmt: skip
    layers = {y: layer for (layer, _, _), (_, y) in places.items() if layer}
    ends = {y: name for (layer, name, _), (_, y) in places.items() if not layer}
    names = {y: name.removesuffix("_in") for y, name in ends.items()} | layers
    ticks = sorted(names)
    told = [re.sub(r"^(enc|dec)/", "", names[y]) for y in ticks]
    ax.set_yticks(ticks, told, fontsize=7.5)
    ax.set_xticks([])
    ax.spines[:].set_visible(False)
    ax.margins(x=0.06, y=0.04)
    return (len(order), len(kept)) if any(" -> " in s for s in net["sites"]) else (0, 0)


def tables(finished: Finished, comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Of each comparison that has circuits a row for each net, method and selection."""
    found = []
    for label, comparison in zip(labels(comparisons), comparisons):
        if results := _found(finished, comparison):
            told = next(iter(results.values()))[0]
            reasons = dict.fromkeys(
                reason
                for own in results.values()
                for one in own
                for reason in (one["shift"]["undefined"], *(one[k]["undefined"] for k in NETS))
                if reason
            )
            pairs = span([one["n"] for own in results.values() for one in own])
            rows = [*_rows(results)]
            about = {"label": label, "level": told["level"], "pairs": pairs, "rows": rows}
            found.append(about | {"reasons": [*reasons]})
    return found


NETS = ("first", "second")
NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def _rows(results: Results) -> Iterator[dict[str, Any]]:
    nets = {"teacher": [one["first"] for one in next(iter(results.values()))]}
    nets |= {role: [one["second"] for one in own] for role, own in results.items()}
    for method, selections in nets["teacher"][0]["circuits"].items():
        for name in selections:
            for role, own in nets.items():
                circuits = [net["circuits"][method][name] for net in own]
                row = {"net": role, "method": method, "selection": name}
                row["sites"] = f"{span([c['size'] for c in circuits])} of {len(own[0]['sites'])}"
                row["faithfulness"] = _over([c["faithfulness"] for c in circuits])
                row["random"] = _mean([c["random"]["value"] for c in circuits])
                shifts = [one["shift"]["methods"].get(method) for one in results.get(role, ())]
                row |= _shift([s for s in shifts if s], name)
                yield row


def _shift(shifts: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    if not shifts:
        numbers = dict.fromkeys(("overlap_random", "cross_random", "mapped"), math.nan)
        return dict.fromkeys(("overlap", "rank", "cross"), NOTHING) | numbers
    own = [shift[name] for shift in shifts]
    return {
        "overlap": _over([one["overlap"] for one in own]),
        "overlap_random": _mean([one["overlap"]["random"] for one in own]),
        "rank": _over([shift["rank"] for shift in shifts]),
        "cross": _over([one["cross"]["faithfulness"] for one in own]),
        "cross_random": _mean([one["cross"]["random"]["value"] for one in own]),
        "mapped": _mean([one["mapped"] for one in own]),
    }


def _over(found: Sequence[Mapping[str, Any]]) -> Estimate:
    """Over seeds; of one seed its interval over pairs of inputs."""
    if len(found) > 1:
        return statistics.over_seeds(figures.array([one["value"] for one in found]))
    value, low, high = (float(figures.array(found[0][k])) for k in ("value", "low", "high"))
    return Estimate(value, low, high, 1)


def _mean(values: Sequence[Any]) -> float:
    found = figures.array(values)
    found = found[np.isfinite(found)]
    return float(found.mean()) if len(found) else math.nan
