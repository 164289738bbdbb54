"""Which sites make a circuit, of their scores: the largest, those above a threshold, or greedily.

    top        the n largest |s|
    threshold  |s| of so much and more
    greedy     from the logits on, n times the largest |s| of the edges into what is there already
               (arXiv 2403.17806, appendix); on nodes as `top`

Dead ends are then left out (`Edges.pruned`), so a circuit may have fewer.
"""

import heapq
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float

from fairkd_jax.circuits.graph import Edges, Graph


def top(graph: Graph, scores: Float[np.ndarray, "S"], count: int) -> Bool[np.ndarray, "S"]:
    kept = np.zeros(len(graph), bool)
    kept[np.argsort(-np.abs(scores), kind="stable")[:count]] = True
    return graph.pruned(kept)


def threshold(graph: Graph, scores: Float[np.ndarray, "S"], least: float) -> Bool[np.ndarray, "S"]:
    return graph.pruned(np.abs(scores) >= least)


def greedy(graph: Graph, scores: Float[np.ndarray, "S"], count: int) -> Bool[np.ndarray, "S"]:
    if not isinstance(graph, Edges):
        return top(graph, scores, count)
    kept, into = np.zeros(len(graph), bool), {}
    for edge, (_, target) in enumerate(graph.pairs):
        into.setdefault(graph.feeds[target], []).append((-abs(scores[edge]), edge))
    there, best = {None}, into[None]
    heapq.heapify(best)
    while best and count > 0:
        _, edge = heapq.heappop(best)
        kept[edge], count = True, count - 1
        source = graph.sources[graph.pairs[edge][0]]
        if source not in there:
            there.add(source)
            for more in into.get(source, []):
                heapq.heappush(best, more)
    return graph.pruned(kept)


SELECTIONS: Mapping[str, Callable] = {"top": top, "greedy": greedy}
