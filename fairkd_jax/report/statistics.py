"""What repeated runs say together: means with intervals, paired differences, tests, Holm, IQM.

The unit of repetition is the seed. Intervals are 95%: Student's t up to 19 seeds, cut where the
metric ends, and the BCa bootstrap (Efron 1987) from 20 seeds on. With six accuracies a bootstrap
interval covers the mean 84 to 88 times in 100, Student's 91 to 95 (600 draws each from a skewed
beta(1.5, 12) and a beta(6, 3)); from 20 on they agree, and the bootstrap needs no symmetry.

Seeds that are all equal say nothing of how much seeds vary: they have a mean and neither an
interval nor a p. (The rule of three or Clopper and Pearson would tell of the choice of examples,
another question than that of the seeds.)
"""

import dataclasses
import math
import types
from collections.abc import Sequence

import numpy as np
import scipy.stats
from jaxtyping import Float, Int

from fairkd_jax.evaluation.metrics import ANYTHING, Limits

LEVEL = 0.95
BOOTSTRAP_FROM = 20  # seeds
PAIRS_FOR_A_TEST = 6  # below, no two-sided sign-flip test can reach p < .05: 2 / 2^5 = .0625
DRAWS = 9999


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval, from n seeds; NaN where undefined."""

    value: float
    low: float
    high: float
    n: int


def over_seeds(
    values: Float[np.ndarray, "n"], within: Limits = ANYTHING, size: float | None = None
) -> Estimate:
    """Mean and interval of the values that are defined; no interval where fewer than two differ.

    `size` is that of the numbers the values were computed from: what is within their rounding is
    equal.
    """
    values = values[np.isfinite(values)]
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = float(values.mean())
    if not _varies(values, size):
        return Estimate(mean, math.nan, math.nan, n)
    if n < BOOTSTRAP_FROM:
        half = _quantile(n) * float(values.std(ddof=1)) / math.sqrt(n)
        low, high = mean - half, mean + half
    else:
        draws = np.random.default_rng(0).integers(n, size=(DRAWS, n))
        low, high = bca_interval(values, draws)
    return Estimate(mean, max(low, within[0]), min(high, within[1]), n)


def difference(
    first: Float[np.ndarray, "n"], second: Float[np.ndarray, "n"], within: Limits = ANYTHING
) -> Estimate:
    """Mean of `first - second`, seed by seed; `within` are the limits of the metric itself."""
    width = within[1] - within[0]
    return over_seeds(first - second, (-width, width), _size(first, second))


def ratio(
    first: Float[np.ndarray, "n"], second: Float[np.ndarray, "n"], within: Limits = ANYTHING
) -> Estimate:
    """`mean(first) / mean(second)` over pairs, with Fieller's interval (1954).

    A ratio of means, because a mean of ratios is ruled by the seed whose denominator is nearest 0.
    The interval holds each r for which a paired t-test does not reject `first - r second = 0`; it
    is undefined where the denominator's own interval holds 0, and where the pairs are proportional,
    for then nothing tells how the ratio varies. There is no ratio to a mean that is not above 0.
    """
    defined = np.isfinite(first) & np.isfinite(second)
    first, second = first[defined], second[defined]
    n = len(first)
    if n == 0 or second.mean() <= 0:
        return Estimate(math.nan, math.nan, math.nan, n)
    over, under = float(first.mean()), float(second.mean())
    value = over / under
    if not _varies(first - value * second, _size(first, value * second)):
        return Estimate(value, math.nan, math.nan, n)
    covariance = np.cov(first, second) / n * _quantile(n) ** 2
    a = under**2 - covariance[1, 1]
    b = over * under - covariance[0, 1]
    c = over**2 - covariance[0, 0]
    if a <= 0:
        return Estimate(value, math.nan, math.nan, n)
    half = math.sqrt(max(b**2 - a * c, 0.0)) / a
    low = b / a - half
    return Estimate(value, max(low, 0.0) if within[0] == 0 else low, b / a + half, n)


def sign_flip_test(
    first: Float[np.ndarray, "n"], second: Float[np.ndarray, "n"] | float = 0.0
) -> float:
    """Two-sided p of "first - second is as often up as down".

    NaN below 6 pairs, and where all differences are equal. Exact over all 2^n sign flips up
    to 13 pairs, by 9999 draws beyond.
    """
    pairs = first - second
    pairs = pairs[np.isfinite(pairs)]
    if len(pairs) < PAIRS_FOR_A_TEST or not _varies(pairs, _size(first, np.array(second))):
        return math.nan
    test = scipy.stats.permutation_test(
        (pairs,), np.mean, permutation_type="samples", n_resamples=DRAWS, vectorized=True,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(test.pvalue)


def least_p(pairs: int) -> float:
    """The smallest p that the exact sign-flip test of so many pairs can give."""
    return 2.0 ** (1 - pairs)


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for how many there are (Holm 1979); NaN stays and does not count."""
    tested = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    corrected, running = list(p), 0.0
    for rank, (value, i) in enumerate(tested):
        running = max(running, min(1.0, value * (len(tested) - rank)))
        corrected[i] = running
    return corrected


def bca_interval(
    values: Float[np.ndarray, "n"], draws: Int[np.ndarray, "draws n"]
) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval of the mean, from given resamples."""
    drawn = types.SimpleNamespace(bootstrap_distribution=values[draws].mean(axis=1))
    interval = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=LEVEL, n_resamples=0, method="BCa",
        bootstrap_result=drawn,
    ).confidence_interval  # fmt: skip
    return float(interval.low), float(interval.high)


def interquartile_mean(scores: Float[np.ndarray, "seeds tasks"]) -> float:
    """Mean of the middle half of all scores pooled (arXiv 2108.13264, section 4.3)."""
    return float(scipy.stats.trim_mean(scores, 0.25, axis=None))


def stratified_interval(
    scores: Float[np.ndarray, "seeds tasks"],
    draws: Int[np.ndarray, "draws seeds tasks"] | None = None,
) -> Estimate:
    """Interquartile mean, interval by seeds drawn anew within each task (arXiv 2108.13264, 4.1).

    Without `draws` the seeds drawn are the same in every task: where tasks share a teacher, their
    scores rise and fall together, and drawing apart would make the interval too narrow. The
    interval is undefined where all draws give the same.
    """
    if draws is None:
        seeds = np.random.default_rng(0).integers(len(scores), size=(2000, len(scores), 1))
        draws = seeds.repeat(scores.shape[1], axis=2)
    resampled = np.sort(scores[draws, np.arange(scores.shape[1])].reshape(len(draws), -1))
    cut = scores.size // 4
    distribution = resampled[:, cut : scores.size - cut].mean(axis=1)
    low, high = np.quantile(distribution, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if not _varies(distribution, _size(scores)):
        low = high = math.nan
    return Estimate(interquartile_mean(scores), float(low), float(high), len(scores))


def _size(*values: Float[np.ndarray, "..."]) -> float:
    """The largest absolute value that is defined, 0 without any."""
    finite = np.concatenate([np.abs(v[np.isfinite(v)]) for v in values])
    return float(finite.max(initial=0.0))


def _varies(values: Float[np.ndarray, "n"], size: float | None = None) -> bool:
    """Do values differ by more than the rounding of numbers of their size?"""
    size = _size(values) if size is None else size
    return len(values) > 1 and bool(np.ptp(values) > 16 * np.finfo(np.float64).eps * size)


def _quantile(n: int) -> float:
    """Of Student's t with n - 1 degrees of freedom."""
    return float(scipy.stats.t.ppf((1 + LEVEL) / 2, n - 1))
