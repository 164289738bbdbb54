"""Circuits of two nets on the same pairs of clean and corrupt inputs, and how they differ."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from fairkd_jax.circuits import faithful, select, shift
from fairkd_jax.circuits.graph import LEVELS, Graph, graph_of
from fairkd_jax.circuits.metric import metric as metric_of
from fairkd_jax.circuits.patching import ABLATIONS
from fairkd_jax.circuits.problem import AT_ONCE, Problem
from fairkd_jax.circuits.score import Score, Scored
from fairkd_jax.models.net import Net
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Batch

Nets = Mapping[str, tuple[Net, Any]]  # "first" and "second", with their variables


def compare_circuits(
    nets: Nets,
    batches: Iterable[Batch],
    *,
    scores: Mapping[str, Score],
    labels: tuple[int, ...] = (),
    level: str = "edges",
    metric: str = "logit_difference",
    ablation: str = "interchange",
    select_by: str = "top",
    sizes: Iterable[float] = (0.1,),
    thresholds: Iterable[float] = (),
    random: int = 8,
    bootstrap: int = 200,
    seed: int = 0,
    at_once: int = AT_ONCE,
    put: Callable[[Batch], Batch] = lambda batch: batch,
) -> dict[str, Any]:
    """What each way of scoring finds in either net, how faithful it is, how much both share.

    `batches` have "corrupt" beside "views". `sizes` are shares of all sites, `thresholds` of |s|;
    `labels` say which label of the examples each class of the nets counts as, if they are others.
    Returned:

    level, why              "edges", or "nodes", and by net why it has no edges
    n                       pairs of inputs
    first, second           sites: names; whole, corrupt, empty: M, with 95% intervals over pairs;
                            undefined: the reason why nothing of it is faithful, or "";
                            scores: by method value [S] and error [S], its standard error;
                            agreement: by pair of methods Spearman's correlation of |scores|;
                            circuits: by method, by selection ("top 0.1"), as `faithful.judged`,
                            and kept: numbers of sites
    shift                   left_out: parts without a counterpart; undefined: reason, or "";
                            depth [D]; by method rank {value, low, high}, and by selection
                            overlap {value, low, high, random}, by_depth [D], mapped: the share of
                            the first's circuit that has a place in the second, cross: the first
                            net's circuit in the second, as `faithful.judged`

    Raises what `check` raises.
    """
    check(scores, level=level, metric=metric, ablation=ablation, select_by=select_by, sizes=sizes)
    batches = list(batches)
    level, why = level_of({name: net for name, (net, _) in nets.items()}, level)
    problems = {
        name: Problem(
            net,
            variables,
            graph_of(net, batches[0], level),
            metric_of(metric, labels),
            batches,
            ablation,
            put,
            at_once,
        )
        for name, (net, variables) in nets.items()
    }
    which = faithful.draws(len(problems["first"].whole), bootstrap, seed)
    generator = np.random.default_rng([seed, 2])
    choose = _choices(select_by, sizes, thresholds)
    told: dict[str, Any] = {"level": level, "why": why, "n": int(which.shape[1])}
    scored = {
        name: {method: score.scores(problem) for method, score in scores.items()}
        for name, problem in problems.items()
    }
    kept = {
        name: {m: _kept(problem.graph, one, choose) for m, one in scored[name].items()}
        for name, problem in problems.items()
    }
    for name, problem in problems.items():
        told[name] = _of_net(problem, scored[name], kept[name], which, random, generator)
    told["shift"] = _shift(problems, scored, kept, choose, which, random, generator)
    return told


def check(
    scores: Mapping[str, Score],
    *,
    level: str,
    metric: str,
    ablation: str,
    select_by: str,
    sizes: Iterable[float],
) -> None:
    """Raises UnknownName and ValueError for what cannot be asked."""
    metric_of(metric)
    for value, place, choices in (
        (level, "level", LEVELS),
        (ablation, "ablation", ABLATIONS),
        (select_by, "select", select.SELECTIONS),
    ):
        if value not in choices:
            raise UnknownName(value, f"{place} of circuits:", choices)
    for size in sizes:
        if not 0 < size <= 1:
            raise ValueError(f"circuits: sizes has {size}, expected shares of all sites, 0 to 1")
    for score in scores.values():
        score.check(metric)


def level_of(nets: Mapping[str, Net], level: str) -> tuple[str, dict[str, str]]:
    """The level at which nets are compared, and of each that has no edges why."""
    without = {
        name: net.architecture.no_edges
        for name, net in nets.items()
        if level == "edges" and not net.architecture.wiring()
    }
    return "nodes" if without else level, without


Choose = Mapping[str, Callable[[Graph, Float[np.ndarray, "S"]], Bool[np.ndarray, "S"]]]


def _choices(by: str, sizes: Iterable[float], thresholds: Iterable[float]) -> Choose:
    def of_size(share: float) -> Callable:
        return lambda graph, s: select.SELECTIONS[by](graph, s, max(1, round(share * len(graph))))

    def above(least: float) -> Callable:
        return lambda graph, s: select.threshold(graph, s, least)

    found = {f"{by} {share:g}": of_size(share) for share in sizes}
    return found | {f"threshold {least:g}": above(least) for least in thresholds}


OWN = "own"  # what a method itself keeps


def _kept(graph: Graph, scored: Scored, choose: Choose) -> dict[str, Bool[np.ndarray, "S"]]:
    own = {} if scored.kept is None else {OWN: scored.kept}
    return own | {name: chosen(graph, scored.mean) for name, chosen in choose.items()}


def _of_net(
    problem: Problem,
    scored: Mapping[str, Scored],
    kept: Mapping[str, Mapping[str, Bool[np.ndarray, "S"]]],
    which: faithful.Draws,
    random: int,
    generator: np.random.Generator,
) -> dict[str, Any]:
    examples = len(problem.whole)
    told: dict[str, Any] = {
        "sites": problem.graph.names,
        "whole": faithful.mean(problem.whole, which),
        "corrupt": faithful.mean(problem.ends[1], which),
        "empty": faithful.mean(problem.empty, which),
        "undefined": faithful.undefined(problem),
    }
    told["scores"] = {
        method: {
            "value": one.mean,
            "error": one.by_example.std(axis=1, ddof=1) / np.sqrt(examples)
            if examples > 1
            else np.full(len(one.mean), np.nan),
        }
        for method, one in scored.items()
    }
    told["agreement"] = {
        f"{a}, {b}": shift.spearman(np.abs(scored[a].mean), np.abs(scored[b].mean))
        for a, b in itertools.combinations(scored, 2)
    }
    flat = [(m, name, circuit) for m, own in kept.items() for name, circuit in own.items()]
    judged = faithful.judged(problem, [c for *_, c in flat], which, random, generator)
    told["circuits"] = {method: {} for method in kept}
    for (method, name, circuit), one in zip(flat, judged):
        told["circuits"][method][name] = one | {"kept": np.flatnonzero(circuit)}
    return told


def _shift(
    problems: Mapping[str, Problem],
    scored: Mapping[str, Mapping[str, Scored]],
    kept: Mapping[str, Mapping[str, Mapping[str, Bool[np.ndarray, "S"]]]],
    choose: Choose,
    which: faithful.Draws,
    random: int,
    generator: np.random.Generator,
) -> dict[str, Any]:
    graphs = problems["first"].graph, problems["second"].graph
    parts = shift.parts_of(*graphs)
    told: dict[str, Any] = {"left_out": list(parts.left_out), "undefined": parts.reason}
    told |= {"depth": np.unique(parts.depth), "methods": {}}
    if parts.reason:
        return told
    for method in scored["first"]:
        both = [scored[name][method] for name in ("first", "second")]
        samples = [[one.by_example[:, rows].mean(axis=1) for one in both] for rows in which]
        ranks = np.array([shift.rank(parts, *pair) for pair in samples])
        found: dict[str, Any] = {
            "rank": faithful.interval(shift.rank(parts, *(one.mean for one in both)), ranks)
        }
        names = list(kept["first"][method])
        chosen = [[kept[net][method][name] for net in ("first", "second")] for name in names]
        crossed = [shift.mapped(parts, pair[0], both[1].mean) for pair in chosen]
        circuits = [circuit for circuit, _ in crossed]
        judged = faithful.judged(problems["second"], circuits, which, random, generator)
        for name, pair, (_, placed), cross in zip(names, chosen, crossed, judged):
            again = [
                shift.overlap(parts, *(choose[name](g, s) for g, s in zip(graphs, sample)))[0]
                for sample in (samples if name in choose else [])
            ]
            value, by_depth = shift.overlap(parts, *pair)
            by_chance = [
                shift.overlap(
                    parts,
                    *(
                        faithful.random_circuits(int(c.sum()), len(c), 1, generator)[0]
                        for c in pair
                    ),
                )[0]
                for _ in range(random)
            ]
            found[name] = {
                "overlap": faithful.interval(value, np.array(again))
                | {"random": float(np.mean(by_chance)) if by_chance else np.nan},
                "by_depth": by_depth,
                "mapped": placed,
                "cross": cross,
            }
        told["methods"][method] = found
    return told
