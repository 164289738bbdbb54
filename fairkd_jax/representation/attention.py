"""Where two nets look: divergence of their attention maps by layer and head, on real tokens only.

Rows p of one map and q of another, of the same query of the same example, are distributions over
keys. In nats, as means over all real rows of all examples:

    js          (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, at most ln 2 (Lin 1991)
    kl          KL(p || q), of the first net from the second; kl_reverse: KL(q || p)
    cosine      p.q / |p| |q|
    mean_js     js of the maps averaged over heads, [] where the others are [N, M]
    entropy     of p and of q, by head

Heads have no order, so those of two nets are matched one to one where the sum of `js` is least
(Hungarian, scipy.optimize.linear_sum_assignment), once for all kinds of examples; of the net with
more, some stay alone. Layers are paired by relative depth. Probabilities below the smallest normal
number of their type count as it in KL. Intervals hold the match as it is.

Nets without attention are compared by activation maps, as attention transfer does (arXiv
1612.03928, eq. 2 squared): `at` is |Q_first - Q_second|^2, from 0 to 2, with Q of `distill/at.py`.

The null is the divergence from the map of another example, of as many real tokens: what two nets
share that look at places whatever stands there.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.sharding import Sharding
from jaxtyping import Array as JaxArray
from jaxtyping import Bool, Float, Int, Shaped

from fairkd_jax import geometry
from fairkd_jax.distill.at import where_active
from fairkd_jax.distill.pairs import pool
from fairkd_jax.models.net import Net
from fairkd_jax.representation.kinds import BLOCKS, KINDS, Chosen, Jackknifed, jackknife
from fairkd_jax.sharding import put_replicated, replicated_like
from fairkd_jax.types import Array, Batch

PROBS = "_probs"  # how names of attention maps end
Pairs = tuple[tuple[str, str], ...]  # of layers, the first net's name before the second's
Readers = tuple[tuple[Net, str], tuple[Net, str]]  # nets, and which taps are read (regex)


def compare_attention(
    readers: Readers,
    variables: tuple[Mapping[str, Any], Mapping[str, Any]],
    batches: Iterable[Batch],
    *,
    aligned: Bool[np.ndarray, "G"],
    examples: int,
    put: Callable[[Batch], Batch] = lambda batch: batch,
) -> dict[str, Any]:
    """Divergence of two nets by pair of layers and heads, by kind of example.

    The first `examples` of each kind are read, and no batch after them; what is kept are sums over
    examples. Returned, with P pairs of layers, N and M heads and K matched ones:

    first_layers, second_layers     P names; left_out: reasons for layers that are in no pair
    measure, match                  "js" or "at"; int [P][2, K], heads matched by it
    n_aligned, n_null_aligned       how many examples, and how many the null has; and conflicting
    aligned, conflicting            by name of the measure: float [P][N, M], mean_js [P],
                                    first_entropy [P][N], second_entropy [P][M];
                                    matched: [P] its mean over matched heads, value, low and high of
                                    the 95% interval over examples; null_matched [P];
                                    output: {js, kl, disagreement} of what the nets answer
    difference                      of matched, conflicting - aligned, likewise
    undefined                       by kind the reason why all of it is NaN

    Raises what `layer_pairs` raises, ValueError for fewer than 2 examples asked for,
    FloatingPointError where a map is not finite.
    """
    check(examples)
    chosen, sums, pairs, left_out = Chosen(aligned, examples), None, (), []
    for batch in batches:
        batch = put(batch)
        out = replicated_like(batch)
        if sums is None:
            pairs, left_out = layer_pairs(readers, batch)
        rows = jax.device_get(_rows_step(readers[0][0].view, out)(batch))
        kind, block = chosen.take(rows["group"], rows["real"] > 0)
        placed = _weights(kind, block, rows["length"])
        placed = put_replicated(placed, out.mesh) if out else jax.device_put(placed)
        found = jax.device_get(_step(readers, pairs, out)(variables, batch, *placed))
        found = jax.tree.map(lambda x: x.astype(np.float64), found)
        sums = found if sums is None else jax.tree.map(np.add, sums, found)
        if chosen.full:
            break
    if sums is None:
        raise ValueError("no batches: there is nothing to compare on")
    told = {"left_out": left_out, "undefined": {k: NONE for k, n in chosen.counts.items() if not n}}
    told |= {"first_layers": [a for a, _ in pairs], "second_layers": [b for _, b in pairs]}
    told |= {f"n_{kind}": n for kind, n in chosen.counts.items()}
    return told | _summary(*sums, chosen.counts)


NONE = "no example of this kind was read"


def check(examples: int) -> None:
    """Raises ValueError for too few examples asked for."""
    if examples < 2:
        raise ValueError(f"attention: examples = {examples}, an interval needs at least 2")


def layer_pairs(readers: Readers, batch: Batch) -> tuple[Pairs, list[str]]:
    """(pairs of layers that can be compared, reasons for those that cannot).

    Raises ValueError where the nets read other tokens, or no pair is left; UnknownName for taps
    that a net does not have.
    """
    found = [net.shapes(batch, taps) for net, taps in readers]
    views = [f"view {n.view!r} as encoded by {n.identity or 'it'}" for n, _ in readers]
    if found[0].mask is not None and views[0] != views[1]:
        raise ValueError(
            f"attention: the first net reads {views[0]}, the second {views[1]}: rows of their maps "
            "are of other tokens. Compare nets that read one view"
        )
    pairs, left_out = [], []
    for first, second in by_depth([*found[0].taps], [*found[1].taps]):
        shapes = found[0].taps[first].shape, found[1].taps[second].shape
        if reason := _unlike((first, second), shapes):
            left_out.append(reason)
        else:
            pairs.append((first, second))
    if not pairs:
        raise ValueError(
            "attention: there is no pair of layers to compare. "
            + ("; ".join(left_out) or f"The nets have {_names(found[0])} and {_names(found[1])}")
        )
    if len({name.endswith(PROBS) for name, _ in pairs}) > 1:
        raise ValueError(
            f"attention: {_names(found[0])} are attention maps and others: name one sort of them"
        )
    return tuple(pairs), left_out


def _names(outputs: Any) -> str:
    return ", ".join(outputs.taps)


def _unlike(names: tuple[str, str], shapes: tuple[tuple[int, ...], ...]) -> str:
    """Why two layers cannot be compared; "" where they can."""
    told = " and ".join(f"{n} {[*shape[1:]]}" for n, shape in zip(names, shapes))
    maps = [name.endswith(PROBS) for name in names]
    if maps[0] != maps[1]:
        return f"{told}: one is an attention map and the other is none"
    places = [shape[2:] if maps[0] else shape[1:-1] for shape in shapes]
    pooled = not maps[0] and len(places[0]) == len(places[1]) == 2
    if not all(places) or not (pooled or places[0] == places[1]):
        return f"{told}: other positions"
    return ""


def by_depth(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    """Layers of two nets in pairs: each of the net with fewer, and the nearest in relative depth.

    Layer l of L has depth l / L. Layers whose names differ in numbers alone are a stack, paired
    with that of the same name; where no name is common and each has one stack, these are a pair.
    """
    stacks: list[dict[str, list[str]]] = [{}, {}]
    for names, found in zip((first, second), stacks):
        for name in names:
            found.setdefault(re.sub(r"\d+", "", name), []).append(name)
    common = [(stack, stacks[1][name]) for name, stack in stacks[0].items() if name in stacks[1]]
    if not common and len(stacks[0]) == len(stacks[1]) == 1:
        common = [(next(iter(stacks[0].values())), next(iter(stacks[1].values())))]
    pairs = []
    for here, there in common:
        few, many = sorted((len(here), len(there)))
        nearest = [(2 * (i + 1) * many - few + 2 * few - 1) // (2 * few) - 1 for i in range(few)]
        at = (range(few), nearest) if len(here) == few else (nearest, range(few))
        pairs += [(here[i], there[j]) for i, j in zip(*at)]
    return pairs


@jax.jit
def of_maps(
    first: Float[Array, "B N T S"],
    second: Float[Array, "B M T S"],
    queries: Shaped[Array, "B T"],
    keys: Shaped[Array, "B S"],
) -> dict[str, Float[JaxArray, "B ..."]]:
    """By example the sums over its real queries of all that the file tells, and "rows", their
    number; [B, N, M] but for mean_js [B] and entropies. Masks are 1 on real tokens.
    """
    dtype = jnp.promote_types(first.dtype, jnp.float32)
    real = (queries > 0)[:, None, :, None] & (keys > 0)[:, None, None, :]
    p, q = (jnp.where(real, x.astype(dtype), 0) for x in (first, second))

    def of_head(p: JaxArray) -> dict[str, JaxArray]:  # one at a time: no array [B, N, M, T, S]
        p = p[:, None]
        both = {"js": _js(p, q), "kl": _relative_entropy(p, q)}
        return both | {"kl_reverse": _relative_entropy(q, p)}

    by_pair = jax.lax.map(of_head, jnp.moveaxis(p, 1, 0))
    units = geometry.unit(p), geometry.unit(q)
    return {
        **{name: jnp.moveaxis(x, 0, 1) for name, x in by_pair.items()},
        "cosine": jnp.einsum("bnts,bmts->bnm", *units, precision="highest"),
        "mean_js": _js(jnp.mean(p, axis=1), jnp.mean(q, axis=1)),
        "first_entropy": jnp.sum(jax.scipy.special.entr(p), axis=(2, 3)),
        "second_entropy": jnp.sum(jax.scipy.special.entr(q), axis=(2, 3)),
        "rows": jnp.sum(queries > 0, axis=1).astype(dtype),
    }


def _js(p: JaxArray, q: JaxArray) -> JaxArray:
    middle = (p + q) / 2
    return (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2


def _relative_entropy(p: JaxArray, q: JaxArray) -> JaxArray:
    """The sum over queries and keys of p log(p / q), 0 where p is."""
    ratio = p / jnp.maximum(q, jnp.finfo(q.dtype).tiny)
    return jnp.sum(jnp.where(p > 0, p * jnp.log(ratio), 0), axis=(-2, -1))


@jax.jit
def of_activity(
    first: Float[Array, "B *P D"], second: Float[Array, "B *Q F"], mask: Any = None
) -> dict[str, Float[JaxArray, "B ..."]]:
    """As `of_maps`, of what layers put out, by how far activity lies elsewhere: "at" [B, 1, 1].

    The larger of two images is averaged down first; masked positions are left out.
    """
    dtype = jnp.promote_types(first.dtype, jnp.float32)
    both = [jnp.asarray(x, dtype) for x in (first, second)]
    if mask is not None:
        both = [jnp.where((mask > 0)[:, :, None], x, 0) for x in both]
    if both[0].ndim == 4:
        size = [min(pair) for pair in zip(both[0].shape[1:3], both[1].shape[1:3])]
        both = [pool(x, *size) for x in both]
    square = jnp.sum((where_active(both[0]) - where_active(both[1])) ** 2, axis=1)
    return {"at": square[:, None, None], "rows": jnp.ones_like(square)}


@jax.jit
def of_outputs(
    first: Float[Array, "B C"], second: Float[Array, "B C"]
) -> dict[str, Float[JaxArray, "B"]]:
    """By example what the nets answer, of logits: "js", "kl", and "disagreement", 0 or 1."""
    p, q = (jax.nn.softmax(x)[:, None] for x in (first, second))
    differ = jnp.argmax(first, axis=1) != jnp.argmax(second, axis=1)
    return {"js": _js(p, q), "kl": _relative_entropy(p, q), "disagreement": differ.astype(p.dtype)}


@functools.lru_cache(maxsize=128)
def _rows_step(view: str, out: Sharding | None) -> Callable:
    def step(batch: Batch) -> dict[str, JaxArray]:
        mask = batch["views"][view].get("mask", jnp.zeros((len(batch["id"]), 1)))
        length = jnp.sum(mask > 0, axis=1)
        return {"group": batch["group"], "real": batch["real"], "length": length}

    return jax.jit(step, out_shardings=out)


def _weights(
    kind: Int[np.ndarray, "B"], block: Int[np.ndarray, "B"], length: Int[np.ndarray, "B"]
) -> tuple[Float[np.ndarray, "B Z"], Float[np.ndarray, "B Z"], Int[np.ndarray, "B"]]:
    """(where each row counts, where it counts in the null, of which row it is given the map there).

    Z are the blocks of all kinds. In the null rows of one kind and length change places in turn.
    """
    place = np.where(kind >= 0, kind * BLOCKS + block, -1)
    weights = (place[:, None] == np.arange(len(KINDS) * BLOCKS)).astype(np.float32)
    partner = np.arange(len(kind))
    for like in {*zip(kind[kind >= 0].tolist(), length[kind >= 0].tolist())}:
        at = np.flatnonzero((kind == like[0]) & (length == like[1]))
        partner[at] = np.roll(at, 1)
    alone = partner == np.arange(len(kind))
    return weights, np.where(alone[:, None], 0, weights), partner.astype(np.int32)


@functools.lru_cache(maxsize=128)
def _step(readers: Readers, pairs: Pairs, out: Sharding | None) -> Callable:
    """Cached: comparisons of equal nets share one compiled program."""
    saves = ["|".join(re.escape(name) for name in names) for names in zip(*pairs)]

    def step(variables, batch, weights, null_weights, partner):
        found = [
            net.apply(own, batch, train=False, save=save)[0]
            for (net, _), own, save in zip(readers, variables, saves)
        ]
        used, sums = jnp.sum(weights, axis=1) > 0, []
        for names in pairs:
            x, y = (outputs.taps[name] for outputs, name in zip(found, names))
            sums.append(_by_block(_of_pair(names, x, y, found[0].mask), used, weights))
            null = _of_pair(names, x, y[partner], found[0].mask)
            null = {k: null[k] for k in (*LEADING, "rows") if k in null} | {"n": jnp.ones(len(x))}
            null = _by_block(null, used, null_weights)
            sums[-1] |= {f"null_{k}": v for k, v in null.items()}
        if readers[0][0].num_classes == readers[1][0].num_classes:
            answers = of_outputs(*(outputs.logits for outputs in found))
            answers = _by_block(answers | {"rows": jnp.ones(len(weights))}, used, weights)
        else:
            answers = {}
        return sums, answers

    return jax.jit(step, out_shardings=out)


LEADING = ("js", "at")  # measures by which heads are matched: each pair of layers has one


def _of_pair(names: tuple[str, str], x: JaxArray, y: JaxArray, mask: Any) -> dict[str, JaxArray]:
    def on(length: int) -> Any:
        return mask if mask is not None and mask.shape[1] == length else None

    if not names[0].endswith(PROBS):
        return of_activity(x, y, on(x.shape[1]) if x.ndim == 3 else None)
    masks = [on(n) for n in x.shape[2:]]
    ones = [jnp.ones((len(x), n)) if m is None else m for n, m in zip(x.shape[2:], masks)]
    return of_maps(x, y, *ones)


def _by_block(values: dict[str, JaxArray], used: JaxArray, weights: JaxArray) -> dict:
    """Sums over the examples of each block, [Z, ...]; rows that are not read may hold NaN."""

    def sums(x: JaxArray) -> JaxArray:
        x = jnp.where(used.reshape(-1, *[1] * (x.ndim - 1)), x, 0)
        return jnp.einsum("bz,b...->z...", weights, x, precision="highest")

    return {name: sums(x) for name, x in values.items()}


def _summary(
    sums: list[dict[str, np.ndarray]], answers: dict[str, np.ndarray], counts: Mapping[str, int]
) -> dict[str, Any]:
    """What `compare_attention` returns of sums by block, a dict for each pair of layers."""
    (measure,) = {k for pair in sums for k in LEADING if k in pair}
    if not all(np.isfinite(pair[measure]).all() for pair in sums):
        raise FloatingPointError("attention: maps of the nets are NaN or infinite on some examples")
    match = [scipy.optimize.linear_sum_assignment(pair[measure].sum(axis=0)) for pair in sums]
    told: dict[str, Any] = {"measure": measure, "match": [np.stack(m) for m in match]}
    matched: dict[str, Jackknifed] = {}
    for i, kind in enumerate(KINDS):
        *own, said = [
            {k: v[i * BLOCKS :][:BLOCKS] for k, v in one.items()} for one in (*sums, answers)
        ]
        totals = [{k: v.sum(axis=0) for k, v in pair.items()} for pair in own]
        with np.errstate(divide="ignore", invalid="ignore"):
            told[kind] = {
                k: [pair[k] / pair["rows"] for pair in totals]
                for k in totals[0]
                if not k.startswith("null_") and k != "rows"
            }
            answered = {k: v.sum() / said["rows"].sum() for k, v in said.items() if k != "rows"}
            told[kind]["output"] = answered
            nulls = [pair[f"null_{measure}"] / pair["null_rows"] for pair in totals]
        told[kind]["null_matched"] = [null[m].mean() for null, m in zip(nulls, match)]
        told[f"n_null_{kind}"] = round(totals[0]["null_n"].sum())
        filled = min(BLOCKS, counts[kind])
        parts = [
            jackknife(lambda s, m=m: s[measure][m].mean() / s["rows"], pair, filled)
            for pair, m in zip(own, match)
        ]
        matched[kind] = Jackknifed(
            *(np.array([getattr(p, k) for p in parts]) for k in ("value", "error")), filled
        )
        told[kind]["matched"] = matched[kind].told()
    return told | {"difference": (matched["conflicting"] - matched["aligned"]).told()}
