"""Compares two nets layer by layer, on examples where the shortcut is right and where it is wrong.

For every pair of layers linear CKA on the same examples, with its null: the rows of the second net
shuffled, so that no similarity is left but what the estimator makes up.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from fairkd_jax.models.net import Net
from fairkd_jax.representation.cka import HSIC, hsic
from fairkd_jax.representation.collect import join, read
from fairkd_jax.types import Batch

KINDS = ("aligned", "conflicting")


def compare_nets(
    first: Net,
    first_variables: Mapping[str, Any],
    second: Net,
    second_variables: Mapping[str, Any],
    batches: Iterable[Batch],
    *,
    aligned: Bool[np.ndarray, "G"],
    first_taps: str,
    second_taps: str,
    examples: int,
    pool: str = "mean",
    seed: int = 0,
    put: Callable[[Batch], Batch] = lambda batch: batch,
) -> dict[str, Any]:
    """CKA of every layer of one net with every layer of another, by kind of example.

    `aligned` says for each group whether the shortcut is right there; the first `examples` of each
    kind are read, and no batch after them. `first_taps` and `second_taps` are regular expressions
    over tap names. Returned, for each kind "aligned" and "conflicting":

    <kind>, <kind>_biased   float [L1, L2], debiased and biased CKA; NaN for fewer than 4 examples,
                            and where CKA is undefined
    null_<kind>             float [L1, L2], debiased, rows of the second net shuffled by `seed`
    n_<kind>, ids_<kind>    how many examples, int [n] their ids

    and "first_layers", "second_layers": names, in the order the nets compute them.
    Raises UnknownName for taps that no layer has, ValueError for fewer than 4 examples asked for.
    """
    if examples < 4:
        raise ValueError(f"examples = {examples}: debiased CKA needs at least 4")
    readers = ((first, first_variables, first_taps), (second, second_variables, second_taps))
    chosen = _first_of_each_kind(read(readers, batches, pool=pool, put=put), aligned, examples)
    random = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for kind, (first_features, second_features, ids) in chosen.items():
        found["first_layers"], found["second_layers"] = [*first_features], [*second_features]
        order = random.permutation(len(ids))
        shuffled = {name: x[order] for name, x in second_features.items()}
        found[kind] = _cka(first_features, second_features, examples, debiased=True)
        found[f"{kind}_biased"] = _cka(first_features, second_features, examples, debiased=False)
        found[f"null_{kind}"] = _cka(first_features, shuffled, examples, debiased=True)
        found[f"n_{kind}"], found[f"ids_{kind}"] = len(ids), ids
    return found


def _first_of_each_kind(
    parts: Iterable, aligned: Bool[np.ndarray, "G"], examples: int
) -> dict[str, tuple[dict, dict, Int[np.ndarray, "n"]]]:
    """By kind: features of both nets and ids of its first `examples` examples."""
    taken: dict[str, list] = {kind: [] for kind in KINDS}
    missing = dict.fromkeys(KINDS, examples)
    for nets, rows in parts:
        for kind, wanted in zip(KINDS, (True, False)):
            at = np.flatnonzero(aligned[rows["group"]] == wanted)[: missing[kind]]
            missing[kind] -= len(at)
            taken[kind].append(
                [{k: x[at] for k, x in columns.items()} for columns in (*nets, rows)]
            )
        if not any(missing.values()):
            break
    joined = {kind: [join(part) for part in zip(*parts)] for kind, parts in taken.items()}
    return {kind: (first, second, rows["id"]) for kind, (first, second, rows) in joined.items()}


def _cka(
    first: dict[str, np.ndarray], second: dict[str, np.ndarray], rows: int, *, debiased: bool
) -> Float[np.ndarray, "L1 L2"]:
    """Rows are padded to `rows` and masked, so that all kinds share one compiled program."""
    n = len(next(iter(first.values())))
    if n < 4:
        return np.full((len(first), len(second)), np.nan)
    padding = ((0, rows - n), (0, 0))
    x, y = ([np.pad(f, padding) for f in net.values()] for net in (first, second))
    values = jax.device_put((x, y, np.arange(rows) < n))
    return jax.device_get(jax.jit(HSIC.cka)(hsic(*values, debiased=debiased)))
