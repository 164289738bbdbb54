"""How much of what a whole net does a circuit does: normalised faithfulness, and its intervals.

    (M(circuit) - M(empty)) / (M(whole) - M(empty))

as in arXiv 2403.17806, section 4; where nodes are kept, empty is the net with none of them, of
whose clean input the rest is computed. Intervals are 95% bootstrap percentiles over examples, of a
circuit as it is, which was chosen on the same examples. Beside it stand random circuits of as many
sites.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from fairkd_jax.circuits.problem import Problem

LEVEL = 0.95
LEAST = 1e-4  # of M's size: a difference below it is rounding
Draws = Int[np.ndarray, "R N"]  # rows of the bootstrap's samples


def draws(examples: int, count: int, seed: int) -> Draws:
    """Which examples are in each sample, with repetition."""
    return np.random.default_rng([seed, 1]).integers(examples, size=(count, examples))


def interval(value: Any, samples: Float[np.ndarray, "R ..."]) -> dict[str, Any]:
    """{"value", "low", "high"}; NaN ends where a sample is undefined, or where there is none."""
    if not len(samples):
        nothing = np.full(np.shape(value), np.nan)
        return {"value": value, "low": nothing, "high": nothing}
    ends = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {"value": value, "low": ends[0], "high": ends[1]}


def mean(values: Float[np.ndarray, "... N"], which: Draws) -> dict[str, Any]:
    """The mean over examples."""
    samples = [values[..., rows].mean(axis=-1) for rows in which]
    return interval(values.mean(axis=-1), np.array(samples))


def undefined(problem: Problem) -> str:
    """Why no circuit of it is faithful or unfaithful; "" where faithfulness is defined."""
    whole, empty = problem.whole.mean(), problem.empty.mean()
    if not (np.isfinite(problem.whole).all() and np.isfinite(problem.empty).all()):
        return "the net's answers are NaN or infinite on some examples"
    if abs(whole - empty) <= LEAST * max(abs(whole), abs(empty), LEAST):
        return (
            f"what is measured is {whole:.4g} of the whole net and {empty:.4g} where nothing is"
            " kept: there is no difference that a circuit could explain"
        )
    return ""


def faithfulness(
    values: Float[np.ndarray, "K N"], problem: Problem, which: Draws
) -> dict[str, Float[np.ndarray, "K"]]:
    """Of K circuits with M `values` by example; NaN where it is not defined."""
    if undefined(problem):
        nothing = np.full(len(values), np.nan)
        return {"value": nothing, "low": nothing, "high": nothing}

    def of(rows: Any) -> Float[np.ndarray, "K"]:
        whole, empty = problem.whole[rows].mean(), problem.empty[rows].mean()
        lasts = values[:, rows].mean(axis=1)
        return (lasts - empty) / (whole - empty) if whole != empty else np.full(len(lasts), np.nan)

    return interval(of(slice(None)), np.array([of(rows) for rows in which]))


def random_circuits(
    size: int, total: int, count: int, random: np.random.Generator
) -> Bool[np.ndarray, "K S"]:
    """`count` circuits of `size` of all sites, each as likely."""
    kept = np.zeros((count, total), bool)
    for row in kept:
        row[random.permutation(total)[:size]] = True
    return kept


def judged(
    problem: Problem,
    circuits: Sequence[Bool[np.ndarray, "S"]],
    which: Draws,
    random: int,
    generator: np.random.Generator,
) -> list[dict[str, Any]]:
    """Of each circuit its size, M, faithfulness, that of random ones, all of them in one go.

    size, metric {value, low, high}; faithfulness likewise; random: {value: mean over random
    circuits, low, high: least and largest}; rest: M where the circuit alone is left out.
    """
    total = len(problem.graph)
    others = [random_circuits(int(c.sum()), total, random, generator) for c in circuits]
    asked = [np.stack([c, ~c]) for c in circuits]
    values = problem.values(
        np.concatenate([*asked, *others]) if circuits else np.zeros((0, total), bool)
    )
    faithful = faithfulness(values, problem, which)
    found, start = [], 2 * len(circuits)
    for i, circuit in enumerate(circuits):
        own = {name: x[2 * i] for name, x in faithful.items()}
        by_chance = faithful["value"][start + i * random :][:random]
        found.append(
            {
                "size": int(circuit.sum()),
                "metric": mean(values[2 * i], which),
                "rest": values[2 * i + 1].mean(),
                "faithfulness": own,
                "random": _spread(by_chance),
            }
        )
    return found


def _spread(values: Float[np.ndarray, "K"]) -> dict[str, float]:
    functions: dict[str, Callable] = {"value": np.mean, "low": np.min, "high": np.max}
    return {name: float(f(values)) if len(values) else np.nan for name, f in functions.items()}
