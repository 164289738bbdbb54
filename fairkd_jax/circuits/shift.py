"""How the circuit of one net differs from that of another: overlap by depth, ranks, a map between.

Sites are taken together that differ in the head alone, for heads have no order: a part is a tap of
a layer, or a pair of taps that edges lead from and to. Layers are mapped by relative depth l / L,
each of either net to the nearest of the other (so where one has more, several meet in one); those
of a stack to those of the stack of the same name. A part without a counterpart is left out.

    overlap  sum over parts of min(p, q) / sum of max(p, q), of the shares p and q of their sites
             that are kept: the Jaccard index where parts are single sites (its weighted form)
    rank     Spearman's correlation of the mean |score| of parts
    mapped   of each part of the second net, as large a share as the first net's circuit has there,
             of its sites with the largest |score|
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Int

from fairkd_jax.circuits.graph import Graph

Part = tuple[tuple[str, str, str], ...]  # (stack, layer, what) of each tap


@dataclasses.dataclass(frozen=True)
class Parts:
    """Which parts two graphs share, and which sites belong to them."""

    first: Int[np.ndarray, "S P"]  # 1 where a site is of a part; a site may be of several
    second: Int[np.ndarray, "Z P"]
    depth: Float[np.ndarray, "P"]  # of what the part leads to, relative, in the second net
    left_out: tuple[str, ...]  # taps of the first net without a counterpart

    @property
    def reason(self) -> str:
        """Why nothing can be compared; "" where it can."""
        if len(self.depth):
            return ""
        return (
            f"the nets share no part: nothing of the second answers to {', '.join(self.left_out)}"
        )


def parts_of(first: Graph, second: Graph) -> Parts:
    """The parts of the second net that answer to some of the first."""
    layers = [_layers(graph) for graph in (first, second)]
    related = {
        stack: _nearest(layers[0][stack], layers[1][stack])
        for stack in layers[0].keys() & layers[1].keys()
    }
    own, other = ([_split(part) for part in graph.parts] for graph in (first, second))
    there = {part: i for i, part in enumerate(dict.fromkeys(other))}
    memo = {
        part: [p for p in _counterparts(part, related) if p in there] for part in dict.fromkeys(own)
    }
    shared = [p for p in there if any(p in found for found in memo.values())]
    place = {part: i for i, part in enumerate(shared)}
    matrices = [np.zeros((len(graph), len(shared)), int) for graph in (first, second)]
    for i, part in enumerate(own):
        matrices[0][i, [place[p] for p in memo[part]]] = 1
    for i, part in enumerate(other):
        if part in place:
            matrices[1][i, place[part]] = 1
    depth = [_depth(part[-1], layers[1]) for part in shared]
    lost = dict.fromkeys(" -> ".join(_name(t) for t in part) for part, p in memo.items() if not p)
    return Parts(*matrices, np.array(depth, float), tuple(lost))


def overlap(
    parts: Parts, first: Bool[np.ndarray, "S"], second: Bool[np.ndarray, "Z"]
) -> tuple[float, Float[np.ndarray, "D"]]:
    """(overlap of two circuits, by depth in the order of `np.unique(parts.depth)`)."""
    p, q = _share(parts.first, first), _share(parts.second, second)
    least, most = np.minimum(p, q), np.maximum(p, q)
    at = [parts.depth == d for d in np.unique(parts.depth)]
    return _ratio(least.sum(), most.sum()), np.array(
        [_ratio(least[a].sum(), most[a].sum()) for a in at]
    )


def rank(parts: Parts, first: Float[np.ndarray, "S"], second: Float[np.ndarray, "Z"]) -> float:
    """Spearman's correlation; NaN for fewer than 3 parts, or scores that do not differ."""
    return spearman(_share(parts.first, np.abs(first)), _share(parts.second, np.abs(second)))


def spearman(x: Float[np.ndarray, "P"], y: Float[np.ndarray, "P"]) -> float:
    """Of numbers in pairs; NaN for fewer than 3, or where one of both does not vary."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return float(scipy.stats.spearmanr(x, y).statistic)


def mapped(
    parts: Parts, circuit: Bool[np.ndarray, "S"], scores: Float[np.ndarray, "Z"]
) -> tuple[Bool[np.ndarray, "Z"], float]:
    """(the first net's circuit in the second, share of its sites that have a counterpart there)."""
    share, kept = _share(parts.first, circuit), np.zeros(len(scores), bool)
    for part, wanted in enumerate(share):
        sites = np.flatnonzero(parts.second[:, part])
        best = sites[np.argsort(-np.abs(scores[sites]), kind="stable")]
        kept[best[: int(np.ceil(wanted * len(sites) - 1e-9))]] = True
    found = circuit & (parts.first.sum(axis=1) > 0)
    return kept, _ratio(float(found.sum()), float(circuit.sum()))


def _share(of: Int[np.ndarray, "S P"], values: np.ndarray) -> Float[np.ndarray, "P"]:
    return values.astype(float) @ of / np.maximum(of.sum(axis=0), 1)


def _ratio(least: float, most: float) -> float:
    return float(least / most) if most else np.nan


def _split(part: Iterable[str]) -> Part:
    return tuple(_one(tap) for tap in part)


def _one(tap: str) -> tuple[str, str, str]:
    """("enc/block", "enc/block03", "mlp_out"); what is in no layer is by itself."""
    layer, _, what = tap.rpartition("/")
    return (re.sub(r"\d+", "", layer), layer, what) if re.search(r"\d", layer) else ("", "", tap)


def _name(tap: tuple[str, str, str]) -> str:
    return f"{tap[1]}/{tap[2]}" if tap[1] else tap[2]


def _layers(graph: Graph) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for part in graph.parts:
        for stack, layer, _ in _split(part):
            if layer not in found.setdefault(stack, []):
                found[stack].append(layer)
    return {stack: sorted(layers, key=_numbers) for stack, layers in found.items()}


def _numbers(layer: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", layer)]


def _nearest(first: Sequence[str], second: Sequence[str]) -> dict[str, list[str]]:
    """Of each layer of the first those of the second that answer to it."""
    pairs = {(i, _near(i, len(first), len(second))) for i in range(len(first))}
    pairs |= {(_near(j, len(second), len(first)), j) for j in range(len(second))}
    return {layer: [second[j] for k, j in sorted(pairs) if k == i] for i, layer in enumerate(first)}


def _near(i: int, few: int, many: int) -> int:
    """The layer of `many` that is nearest to layer i of `few` in relative depth."""
    return max(0, (2 * (i + 1) * many + few - 1) // (2 * few) - 1)


def _counterparts(part: Part, related: dict[str, dict[str, list[str]]]) -> list[Part]:
    found: list[Part] = [()]
    for stack, layer, what in part:
        layers = related.get(stack, {}).get(layer, [])
        found = [(*before, (stack, other, what)) for before in found for other in layers]
    return found


def _depth(tap: tuple[str, str, str], layers: dict[str, list[str]]) -> float:
    stack, layer, what = tap
    if not stack:
        return 1.0 if what == "logits_in" else 0.0
    return (layers[stack].index(layer) + 1) / len(layers[stack])
