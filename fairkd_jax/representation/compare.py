"""Compares two nets layer by layer, on examples where the shortcut is right and where it is wrong.

One pass over the examples: features of both nets' layers stay on the devices, as `held.py` says,
and all pairs of layers are compared from there. Linear CKA always, and any measure of the room
`similarity`; each with its null and an interval over examples (jackknife over blocks of them).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool

from fairkd_jax.models.net import Net
from fairkd_jax.representation import all_pairs
from fairkd_jax.representation.all_pairs import Found
from fairkd_jax.representation.collect import columns_of, taps_of
from fairkd_jax.representation.held import ROOM, Rows, Sums, size_of_rows, size_of_sums
from fairkd_jax.representation.kinds import KINDS, Chosen
from fairkd_jax.representation.measure import Measure
from fairkd_jax.representation.similarity.cka import CKA
from fairkd_jax.sharding import replicated_like
from fairkd_jax.types import Batch

STANDARD = {"": CKA(), "biased": CKA(debiased=False)}  # of every comparison


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
    measures: Mapping[str, Measure] | None = None,
    streamed: bool | None = None,
) -> dict[str, Any]:
    """CKA, and other measures by name, of every layer of one net with every layer of another.

    `aligned` says for each group whether the shortcut is right there; the first `examples` of each
    kind are read, and no batch after them. `first_taps` and `second_taps` are regular expressions
    over tap names. Where all measures stream and features would take more than a gibibyte, sums
    over examples are held instead if they are smaller (`streamed`: whatever is smaller); rows are
    then shuffled within batches, and blocks of the jackknife are batches. Returned, for each kind
    "aligned" and "conflicting":

    <kind>, <kind>_biased   float [L1, L2], debiased and biased CKA; NaN for fewer than 4 examples,
                            and where CKA is undefined
    <kind>_low, _high       float [L1, L2], ends of the 95% interval of the debiased one
    null_<kind>             float [L1, L2], debiased, rows of the second net shuffled by `seed`
    n_<kind>, ids_<kind>    how many examples, int [n] their ids

    and "first_layers", "second_layers": names, in the order the nets compute them; "undefined": why
    something is NaN, a phrase each; "streamed": were sums held; "measures", where others are asked
    for: by name "same" (what a layer has with itself), "undefined", and for each kind value, low,
    high and null, float [L1, L2].
    Raises UnknownName for taps that no layer has, ValueError for fewer than 4 examples asked for,
    and for measures that are to stream and cannot.
    """
    check(examples, measures, streamed)
    readers = ((first, first_variables, first_taps), (second, second_variables, second_taps))
    chosen, held, ids = Chosen(aligned, examples), None, []
    mesh, names = None, ([], [])
    for taps, batch in taps_of(readers, batches, pool=pool, put=put):
        if held is None:
            out = replicated_like(batch)
            mesh, names = out and out.mesh, tuple([*net] for net in taps)
            held = _holder(taps, examples, measures or {}, streamed, mesh, seed)
        rows = jax.device_get(columns_of(batch))
        before = dict(chosen.counts)
        kind, _ = chosen.take(rows["group"], rows["real"] > 0)
        held.add(taps, kind, _places(kind, before))
        ids.append((kind, rows["id"]))
        if chosen.full:
            break
    return _told(held, chosen.counts, ids, names, measures or {}, seed, mesh)


def check(
    examples: int, measures: Mapping[str, Measure] | None = None, streamed: bool | None = None
) -> None:
    """Raises ValueError for too few examples, or for sums of what does not follow from them."""
    if examples < 4:
        raise ValueError(f"examples = {examples}: debiased CKA needs at least 4")
    for name, one in (measures or {}).items():
        if examples < one.least:
            raise ValueError(f"examples = {examples}: {name} needs at least {one.least}")
        if streamed and not one.streams:
            raise ValueError(f"{name} needs all pairs of examples: it cannot be streamed")


def _holder(
    taps: list[dict],
    examples: int,
    measures: Mapping[str, Measure],
    streamed: bool | None,
    mesh: Mesh | None,
    seed: int,
) -> Rows | Sums:
    widths = [[x.shape[1] for x in net.values()] for net in taps]
    if streamed is None:
        streamed = all(one.streams for one in measures.values())
        rows = size_of_rows(widths, examples)
        streamed = streamed and rows > ROOM and size_of_sums(widths) < rows
    return Sums(mesh, seed) if streamed else Rows(examples, mesh)


def _places(kind: np.ndarray, before: Mapping[str, int]) -> np.ndarray:
    """The place of each example among those of its kind."""
    place = np.zeros(len(kind), int)
    for i, name in enumerate(KINDS):
        at = np.flatnonzero(kind == i)
        place[at] = before[name] + np.arange(len(at))
    return place


def _told(
    held: Rows | Sums | None,
    counts: Mapping[str, int],
    ids: list[tuple[np.ndarray, np.ndarray]],
    names: tuple[list[str], ...],
    measures: Mapping[str, Measure],
    seed: int,
    mesh: Mesh | None,
) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    told: dict[str, Any] = {"first_layers": names[0], "second_layers": names[1]}
    told |= {"streamed": isinstance(held, Sums), "undefined": []}
    others = {k: {"same": one.same, "undefined": []} for k, one in measures.items()}
    for i, kind in enumerate(KINDS):
        n = counts[kind]
        told[f"n_{kind}"] = n
        told[f"ids_{kind}"] = np.concatenate([some[of == i] for of, some in ids])
        asked = {("", name): one for name, one in STANDARD.items()}
        asked |= {("other", name): one for name, one in measures.items()}
        find = _of_sums if isinstance(held, Sums) else _of_rows
        found = find(held, kind, n, random.permutation(n), asked, names, mesh)
        for (which, name), (one, reasons) in found.items():
            reasons = [f"{kind}: {reason}" for reason in reasons]
            if which:
                others[name][kind] = vars(one)
                others[name]["undefined"] += reasons
            elif name:
                told[f"{kind}_{name}"] = one.value
            else:
                told |= {kind: one.value, f"null_{kind}": one.null}
                told |= {f"{kind}_low": one.low, f"{kind}_high": one.high}
                told["undefined"] += reasons
    return told | ({"measures": others} if others else {})


Asked = Mapping[tuple[str, str], Measure]
Answers = dict[tuple[str, str], tuple[Found, list[str]]]


def _of_rows(
    held: Rows,
    kind: str,
    n: int,
    order: np.ndarray,
    asked: Asked,
    names: tuple[list[str], ...],
    mesh: Mesh | None,
) -> Answers:
    """Measures from the features that are held."""
    first, second = held.of(kind)
    mask = all_pairs.put(np.float32(np.arange(held.size) < n), mesh)
    varies = tuple(
        all_pairs.get(all_pairs.varying([*net.values()], mask), mesh) for net in (first, second)
    )
    found = {}
    for key, one in asked.items():
        if key == ("", "biased"):  # neither null nor interval: the debiased one has them
            value = all_pairs.value_of_rows(one, first, second, n, mesh)
            answer = Found(*[value] * 4)
        else:
            answer = all_pairs.of_rows(one, first, second, n, order, mesh)
        found[key] = all_pairs.known(one, answer, n, varies, names)
    return found


def _of_sums(
    held: Sums,
    kind: str,
    n: int,
    order: np.ndarray,
    asked: Asked,
    names: tuple[list[str], ...],
    mesh: Mesh | None,
) -> Answers:
    """Measures from the sums that are held."""
    del order  # rows were shuffled as they came
    sums, shape, found = held.of(kind), (len(names[0]), len(names[1])), {}
    for key, one in asked.items():
        values, varies, filled = [], np.zeros((*shape, 2), bool), None
        for place, pair in zip(np.ndindex(shape), sums.values()):
            value, filled, varies[place] = all_pairs.get(all_pairs.of_sums(one, *pair), mesh)
            values.append(value)
        answer = Found.nothing(*names)
        if n >= one.least:
            answer = Found.of(np.stack(values, axis=-1).reshape(-1, *shape), filled)
        own = varies[:, 0, 0], varies[0, :, 1]
        found[key] = all_pairs.known(one, answer, n, own, names)
    return found
