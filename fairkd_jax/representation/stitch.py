"""What a teacher's layer would give a student: its activations in the place of the student's own.

Model stitching (Lenc and Vedaldi, arXiv 1411.5908; Bansal et al., arXiv 2106.07682), with the map
from the teacher's layer x to the student's y by least squares on activations, as the direct
matching of Csiszárik et al. (arXiv 2110.14633) has it: `linear_maps.py`. It is fitted on a split of
its own; then, on another, the student runs with what the map makes of x where y was. No label is
read in fitting, and the map aims at the student's own activations: it hands on what the student's
later layers can read, and no more. What is put in:

    teacher     the teacher's activations through the map
    own         y through a map fitted to y itself: what the least squares alone do
    shuffled    as teacher, with a map fitted to activations of other examples
    mean        the mean of y: what is left where the layer says nothing of the example

The share of the gap that closes is (patched - student) / (teacher - student), of accuracies on
conflicting examples, where the student's is below the teacher's for sure. A student that follows a
shortcut is right less often there than by chance, so what the mean closes, which knows nothing, is
what a share has to exceed, at no cost on aligned examples. Intervals are over the scored examples,
of the maps as they were fitted.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array as JaxArray
from jaxtyping import Bool, Float

from fairkd_jax.models.tape import Edit
from fairkd_jax.representation import linear_maps
from fairkd_jax.representation.attention import Pairs, Readers
from fairkd_jax.representation.kinds import BLOCKS, KINDS, Chosen, stratified
from fairkd_jax.representation.linear_maps import FITTED, Map, Put, Variables
from fairkd_jax.sharding import replicated_like
from fairkd_jax.types import Batch

SOURCES = (*FITTED, "mean")
NETS = ("teacher", "student")  # as they are
ACCURACIES = ("aligned", "conflicting", "gap", "worst_group")
QUANTITIES = (*ACCURACIES, "restored", "closed")


def stitch_nets(
    readers: Readers,
    variables: Variables,
    to_fit: Iterable[Batch],
    to_score: Iterable[Batch],
    *,
    aligned: Bool[np.ndarray, "G"],
    fit_examples: int,
    examples: int,
    ridge: float = 1e-4,
    seed: int = 0,
    put: Put = lambda batch: batch,
) -> dict[str, Any]:
    """What the second net, the student, answers with each layer given by the first, its teacher.

    The first `fit_examples` of each kind of `to_fit` make the maps, the first `examples` of each
    kind of `to_score` are answered; sums alone are kept of both. Returned, with P pairs of layers:

    first_layers, second_layers     P names; left_out: reasons for layers that are in no pair
    n_aligned, n_fit_aligned        how many examples, and conflicting; group_counts [G]
    teacher, student                by_group [G]; aligned, conflicting, gap (their difference),
                                    worst_group: accuracies as value, low, high
    patched                         by source, of `SOURCES`: by_group [P][G]; the same, each [P];
                                    restored: on conflicting examples minus the student's; closed:
                                    the share of the gap; explained_aligned, explained_conflicting
                                    [P]: 1 - |what is put in - y|^2 / |mean - y|^2
    undefined                       the reason why closed is NaN; or ""

    Raises what `check` and `linear_maps.products` raise, ValueError where nothing is to be scored,
    FloatingPointError where logits are not finite.
    """
    check(fit_examples, examples, ridge)
    fitted, chosen = Chosen(aligned, fit_examples), Chosen(aligned, examples)
    found = linear_maps.products(readers, variables, to_fit, fitted, seed, put)
    sums, pairs, left_out = found
    maps = [{name: linear_maps.solve(one[name], ridge) for name in FITTED} for one in sums]
    for one, of_pair in zip(maps, sums):
        mean = of_pair["own"]["y"]
        one["mean"] = np.zeros((len(mean), len(mean))), mean
    counted = _scored(readers, variables, to_score, pairs, maps, chosen, put)
    told: dict[str, Any] = {"left_out": left_out}
    told |= {"first_layers": [a for a, _ in pairs], "second_layers": [b for _, b in pairs]}
    told |= {f"n_{kind}": n for kind, n in chosen.counts.items()}
    told |= {f"n_fit_{kind}": n for kind, n in fitted.counts.items()}
    return told | _summary(counted, aligned, chosen.counts)


def check(fit_examples: int, examples: int, ridge: float) -> None:
    """Raises ValueError for numbers that cannot be."""
    for name, value in (("fit_examples", fit_examples), ("examples", examples)):
        if value < 2:
            raise ValueError(f"stitch: {name} = {value}, expected at least 2")
    if not ridge > 0:
        raise ValueError(
            f"stitch: ridge = {ridge}, expected a number above 0: features of which one follows "
            "from others have no map of their own"
        )


def _scored(
    readers: Readers,
    variables: Variables,
    batches: Iterable[Batch],
    pairs: Pairs,
    maps: Sequence[Mapping[str, Map]],
    chosen: Chosen,
    put: Put,
) -> dict[str, np.ndarray]:
    """Sums over examples of what `_step` returns."""
    sums, there = None, None
    for batch in batches:
        batch = put(batch)
        out = replicated_like(batch)
        if there is None:
            narrow = jax.tree.map(lambda x: x.astype(np.float32), list(maps))
            there = linear_maps.placed(narrow, out)
        kind, block = chosen.take(*linear_maps.rows_of(batch, out))
        if np.any(kind >= 0):
            place = np.where(kind >= 0, kind * BLOCKS + block, -1)
            weights = (place[:, None] == np.arange(len(KINDS) * BLOCKS)).astype(np.float32)
            step = _step(readers, pairs, len(chosen.aligned), out)
            found = step(variables, batch, linear_maps.placed(weights, out), there)
            found = jax.tree.map(lambda x: x.astype(np.float64), jax.device_get(found))
            if found.pop("wrong") or not np.isfinite(found["distance"]).all():
                raise FloatingPointError(
                    "stitch: activations or logits of the nets are NaN or infinite on some examples"
                )
            sums = jax.tree.map(np.add, sums, found) if sums else found
        if chosen.full:
            break
    if sums is None:
        raise ValueError("stitch: there is no example to score")
    return sums


@functools.lru_cache(maxsize=128)
def _step(readers: Readers, pairs: Pairs, groups: int, out: Sharding | None) -> Callable:
    """By block of examples, Z of them: right answers [Z, 2 + P S, G], of teacher and student, then
    of the student by pair and source; their number [Z, G]; the squared distance from y [Z, P, S].
    """
    student = readers[1][0]

    def step(variables, batch, weights, maps):
        found = linear_maps.passes(readers, pairs, variables, batch)
        logits, distance = [one.logits[None] for one in found], []
        for names, of_pair in zip(pairs, maps):
            x, y, mask = linear_maps.met(names, *found)
            given = {"teacher": x, "own": y, "shuffled": x, "mean": y}
            values = jnp.stack([_mapped(given[name], *of_pair[name]) for name in SOURCES])
            square = jnp.where(mask > 0, jnp.sum((values - y) ** 2, axis=-1), 0)
            distance.append(jnp.sum(square, axis=-1))
            tap = found[1].taps[names[1]]
            real = jnp.broadcast_to(mask[..., None], y.shape).reshape(tap.shape)

            def patched(value, name=names[1], shape=tap.shape, real=real):
                edits = {name: Edit(value.reshape(shape), real)}
                return student.apply(variables[1], batch, train=False, edits=edits)[0].logits

            logits.append(jax.vmap(patched)(values))
        logits = jnp.concatenate(logits)
        used = jnp.sum(weights, axis=1) > 0
        right = (jnp.argmax(logits, axis=-1) == batch["label"]).astype(jnp.float32)
        of_group = jax.nn.one_hot(batch["group"], groups)
        distance = jnp.where(used, jnp.stack(distance), 0)
        return {
            "right": jnp.einsum("sb,bz,bg->zsg", right, weights, of_group),
            "n": jnp.einsum("bz,bg->zg", weights, of_group),
            "distance": jnp.einsum("psb,bz->zps", distance, weights, precision="highest"),
            "wrong": jnp.any(~jnp.isfinite(logits) & used[:, None]).astype(jnp.float32),
        }

    return jax.jit(step, out_shardings=out)


def _mapped(x: JaxArray, kernel: JaxArray, bias: JaxArray) -> JaxArray:
    return jnp.einsum("bpd,de->bpe", x, kernel, precision="highest") + bias


def _summary(
    sums: Mapping[str, np.ndarray], aligned: Bool[np.ndarray, "G"], counts: Mapping[str, int]
) -> dict[str, Any]:
    """What `stitch_nets` returns of what was counted."""
    pairs = sums["distance"].shape[1]
    found = stratified(lambda s: _quantities(s, aligned), sums, counts).told()
    told = {end: dict(zip(QUANTITIES, values)) for end, values in found.items()}
    gap = stratified(lambda s: _gap(s, aligned), sums, counts).told()
    if undefined := _undefined(gap, told["value"]["conflicting"]):
        for values in told.values():
            values["closed"] = np.full_like(values["closed"], np.nan)
    totals = {k: v.sum(axis=0) for k, v in sums.items()}
    distance = sums["distance"].reshape(len(KINDS), BLOCKS, pairs, len(SOURCES)).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        by_group = totals["right"] / totals["n"]
        explained = 1 - distance / distance[..., -1:]
    result: dict[str, Any] = {"group_counts": totals["n"].astype(int), "undefined": undefined}
    for i, net in enumerate(NETS):
        result[net] = {q: {end: told[end][q][i] for end in told} for q in ACCURACIES}
        result[net]["by_group"] = by_group[i]
    result["patched"] = {}
    for i, source in enumerate(SOURCES):
        at = slice(len(NETS) + i, None, len(SOURCES))
        one: dict[str, Any] = {q: {end: told[end][q][at] for end in told} for q in QUANTITIES}
        one |= {f"explained_{kind}": explained[k, :, i] for k, kind in enumerate(KINDS)}
        result["patched"][source] = one | {"by_group": by_group[at]}
    return result


def _undefined(gap: Mapping[str, np.ndarray], conflicting: Float[np.ndarray, "S"]) -> str:
    """Why there is no share of the gap; ""."""
    value, low, high = (float(gap[end]) for end in ("value", "low", "high"))
    if np.isnan(value):
        return "no conflicting example was read"
    if value <= 0:
        told = f"teacher's {conflicting[0]:.3f}, student's {conflicting[1]:.3f}"
        return f"accuracy on conflicting examples leaves no gap to close: {told}"
    if not low > 0:
        told = f"its interval [{low:.3f}, {high:.3f}] holds 0"
        return f"the gap of {value:.3f} on conflicting examples may be none: {told}"
    return ""


def _accuracies(
    sums: Mapping[str, np.ndarray], of: Bool[np.ndarray, "G"]
) -> Float[np.ndarray, "S"]:
    """On the examples of some groups."""
    return sums["right"][:, of].sum(axis=1) / sums["n"][of].sum()


def _gap(sums: Mapping[str, np.ndarray], aligned: Bool[np.ndarray, "G"]) -> np.ndarray:
    """On conflicting examples, teacher minus student."""
    teacher, student = _accuracies(sums, ~aligned)[: len(NETS)]
    return np.asarray(teacher - student)


def _quantities(
    sums: Mapping[str, np.ndarray], aligned: Bool[np.ndarray, "G"]
) -> Float[np.ndarray, "Q S"]:
    """`QUANTITIES` of teacher, student, and each pair and source."""
    right, wrong = (_accuracies(sums, of) for of in (aligned, ~aligned))
    there = np.broadcast_to(sums["n"] > 0, sums["right"].shape)
    worst = np.min(sums["right"] / sums["n"], axis=1, where=there, initial=np.inf)
    restored = wrong - wrong[1]
    gap = _gap(sums, aligned)
    closed = restored / np.where(gap > 0, gap, np.nan)
    return np.stack([right, wrong, right - wrong, worst, restored, closed])
