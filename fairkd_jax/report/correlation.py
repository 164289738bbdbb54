"""Spearman's rank correlation over runs of which some share a net, with a bootstrap over the nets.

Runs that share a teacher, or are one net against several teachers, are not independent: they are
drawn together, as one cluster (Field and Welsh 2007). Intervals are 95%, BCa (Efron 1987) of the
clusters. A resample is its runs with how often each was drawn, so ranks are midranks with weights.
Of 150 draws each from normals of rank correlation 0, .48 and .79, intervals held it 93 to 99 times
in 100 with 6 runs, 94 to 100 with 9, 93 to 96 with 18, and 92 to 94 with 9 teachers of two.
"""

import dataclasses
import math
import types
from collections.abc import Sequence

import numpy as np
import scipy.sparse.csgraph
import scipy.stats
from jaxtyping import Float, Int

from fairkd_jax.report.statistics import LEVEL

RUNS = 5  # below, no correlation is told
CLUSTERS = 5  # below, no interval
DRAWS = 1999
DIGITS = 10  # behind the point: what differs by less is rounding, and tied
DEFINED = 0.95  # share of the resamples that need a correlation for an interval


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Spearman's correlation; NaN with the reason where it, or its interval, is undefined."""

    value: float
    low: float
    high: float
    runs: int
    clusters: int
    undefined: str = ""


def rank_correlation(
    x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"], clusters: Sequence[int]
) -> Correlation:
    """Of the runs for which both are defined; `clusters` says which of them go together."""
    there = np.isfinite(x) & np.isfinite(y)
    x, y = (values[there].round(DIGITS) for values in (x, y))
    names, place = np.unique(np.asarray(clusters, int)[there], return_inverse=True)
    n, k, nan = len(x), len(names), math.nan
    if n < RUNS:
        return Correlation(nan, nan, nan, n, k, f"{n} runs, fewer than {RUNS}")
    if not (np.ptp(x) > 0 and np.ptp(y) > 0):
        same = "divergence" if np.ptp(y) > 0 else "lost robustness"
        return Correlation(nan, nan, nan, n, k, f"the {same} is the same in all runs")

    def statistic(drawn: Int[np.ndarray, "... k"], axis: int = -1) -> Float[np.ndarray, "..."]:
        rows = drawn.reshape(-1, drawn.shape[-1])
        numbered = rows + k * np.arange(len(rows))[:, None]
        times = np.bincount(numbered.ravel(), minlength=k * len(rows))
        return spearman(x, y, times.reshape(*drawn.shape[:-1], k)[..., place].astype(float))

    value = float(statistic(np.arange(k)))
    if k < CLUSTERS:
        told = f"no interval: {k} sets of runs that share no net, fewer than {CLUSTERS}"
        return Correlation(value, nan, nan, n, k, told)
    drawn = statistic(np.random.default_rng(0).integers(k, size=(DRAWS, k)))
    drawn = drawn[np.isfinite(drawn)]
    left_out = statistic(np.array([np.delete(np.arange(k), i) for i in range(k)]))
    if len(drawn) < DEFINED * DRAWS or not np.isfinite(left_out).all():
        told = "no interval: too few runs differ without some of the sets that share a net"
        return Correlation(value, nan, nan, n, k, told)
    if not (np.ptp(drawn) > 1e-9 and np.ptp(left_out) > 1e-9):
        return Correlation(value, nan, nan, n, k, "no interval: all resamples give the same")
    interval = scipy.stats.bootstrap(
        (np.arange(k),), statistic, confidence_level=LEVEL, n_resamples=0, method="BCa",
        vectorized=True, bootstrap_result=types.SimpleNamespace(bootstrap_distribution=drawn),
    ).confidence_interval  # fmt: skip
    return Correlation(value, float(interval.low), float(interval.high), n, k)


def spearman(
    x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"], weights: Float[np.ndarray, "... n"]
) -> Float[np.ndarray, "..."]:
    """The correlation of midranks where run i is there `weights[..., i]` times."""
    total = weights.sum(axis=-1)

    def about_mean(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "... n"]:
        below = (values[None, :] < values[:, None]) + (values[None, :] == values[:, None]) / 2
        ranks = weights @ below.T
        return ranks - (np.sum(weights * ranks, axis=-1) / total)[..., None]

    first, second = about_mean(x), about_mean(y)
    pairs = ((first, second), (first, first), (second, second))
    product, *squares = (np.sum(weights * a * b, axis=-1) for a, b in pairs)
    size = np.sqrt(squares[0] * squares[1])
    return np.asarray(product / np.where(size > 1e-9, size, np.nan))


def clusters_of(shares: Sequence[tuple[str, ...]]) -> list[int]:
    """A number for each run, of which the nets are named: the same where one leads to another over
    nets that they share.
    """
    nets = {name: i for i, name in enumerate(dict.fromkeys(n for one in shares for n in one))}
    rows = [i for i, one in enumerate(shares) for _ in one]
    columns = [nets[name] for one in shares for name in one]
    size = len(shares) + len(nets)
    links = scipy.sparse.coo_array(
        (np.ones(len(rows)), (rows, np.asarray(columns, int) + len(shares))), (size, size)
    )
    _, found = scipy.sparse.csgraph.connected_components(links, directed=False)
    return found[: len(shares)].tolist()
