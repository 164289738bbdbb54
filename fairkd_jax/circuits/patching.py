"""Nets whose inside is replaced in part: exact patching and its first order, one program a net.

A batch has clean inputs in "views" and corrupt ones in "corrupt". A site that is not kept takes
another value than the one that is computed:

    interchange      what the corrupt input gives there
    mean             the mean over clean examples and real positions
    mean_positional  the mean over clean examples at that position, 0 where none has a token
    zero             0; of a head before the output projection, whose bias stays

Sites that are kept are computed anew from what is before them. Patching is an `Edit` at a tap; an
edge replaces what one reader of a stream sees of what one writer added to it.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax.circuits.graph import Edges, Graph, Site, shapes_of
from fairkd_jax.circuits.metric import Metric
from fairkd_jax.models.net import Net
from fairkd_jax.models.tape import Edit
from fairkd_jax.models.wiring import Reader, Writer
from fairkd_jax.types import Array, Batch

ABLATIONS = ("interchange", "mean", "mean_positional", "zero")
Values = Mapping[str, Array]  # what is put in the place of what is computed, by tap or seam


def corrupt_of(batch: Batch) -> Batch:
    """The batch with its corrupt inputs in the place of the clean ones."""
    return batch | {"views": batch["corrupt"]}


def written(graph: Graph) -> tuple[str, ...]:
    """Taps, or seams, whose values are replaced."""
    if isinstance(graph, Edges):
        return tuple(step.adds for step in graph.steps if isinstance(step, Writer))
    return graph.taps


def run(net: Net, variables: Any, batch: Batch, edits: Mapping[str, Any]) -> JaxArray:
    """Logits [B, C] with edits, in evaluation."""
    return net.apply(variables, batch, train=False, edits=edits)[0].logits


def record(
    net: Net, variables: Any, batch: Batch, names: tuple[str, ...], edits: Mapping[str, Any] = {}
) -> tuple[JaxArray, dict[str, JaxArray]]:
    """(logits, what passes taps or seams of those names)."""
    found: dict[str, JaxArray] = {}

    def keep(name: str) -> Callable[[JaxArray], JaxArray]:
        def edit(x: JaxArray) -> JaxArray:
            found[name] = edits[name](x) if name in edits else x
            return found[name]

        return edit

    logits = run(net, variables, batch, dict(edits) | {name: keep(name) for name in names})
    return logits, found


class _Streams:
    """The edits of one pass in which edges are replaced: it holds what each stream lacks."""

    def __init__(self, graph: Edges, values: Values, read: Callable[[Reader, Any], Any]):
        self.missing: dict[str, list[JaxArray]] = {}  # by stream [B, T, n, D]: value less computed
        self.edits: dict[str, Any] = {}
        for step in graph.steps:
            if isinstance(step, Writer):
                self.edits[step.adds] = self._writes(step, values[step.adds])
            else:
                self.edits[step.seam] = self._reads(step, read)

    def _writes(self, step: Writer, value: Array) -> Callable[[JaxArray], JaxArray]:
        def edit(x: JaxArray) -> JaxArray:
            lacks = jnp.asarray(value, x.dtype) - x
            lacks = lacks if step.heads else lacks[:, :, None]
            self.missing.setdefault(step.stream, []).append(lacks)
            return x

        return edit

    def _reads(self, step: Reader, read: Callable) -> Callable[[JaxArray], JaxArray]:
        def edit(x: JaxArray) -> JaxArray:
            stream = self.missing.get(step.stream, [])
            if len(stream) > 1:  # joined once, for all readers until the next writer
                stream[:] = [jnp.concatenate(stream, axis=2)]
            seen = x if step.heads else x[:, :, None]
            seen = read(step, seen, stream[0])
            return seen if step.heads else seen[:, :, 0]

        return edit


def _edits(graph: Graph, values: Values, off: Any) -> dict[str, Any]:
    """Edits by name; `off` is one row of what `graph.off` gives."""
    if not isinstance(graph, Edges):
        return {tap: Edit(values[tap], mask[None]) for tap, mask in off.items()}
    first = {}
    for j, target in enumerate(graph.targets):
        first.setdefault(target.tap, j)

    def read(step: Reader, x: JaxArray, missing: JaxArray) -> JaxArray:
        columns = slice(first[step.seam], first[step.seam] + x.shape[2])
        own = off[jnp.array(graph.before[step.seam]), columns].astype(x.dtype)
        return x + jnp.einsum("btsd,sn->btnd", missing, own, precision="highest")

    return _Streams(graph, values, read).edits


def values_of(net: Net, graph: Graph, variables: Any, batch: Batch, given: Values) -> Values:
    """What a batch's sites take where they are not kept: what is given, else an interchange."""
    return given or record(net, variables, corrupt_of(batch), written(graph))[1]


def shapes_written(net: Net, graph: Graph, batch: Batch) -> dict[str, tuple[int, ...]]:
    """The shapes of what `written` names."""
    names, variables = written(graph), net.variable_shapes()
    found = jax.eval_shape(lambda v, b: record(net, v, b, names)[1], variables, batch)
    return {name: x.shape for name, x in found.items()}


@functools.lru_cache(maxsize=64)
def patched_step(net: Net, graph: Graph, metric: Metric, out: Sharding | None) -> Callable:
    """(variables, batch, given, what `graph.off` gives) -> M [K, B]: one pass for each of K."""

    def step(variables: Any, batch: Batch, given: Values, off: Any) -> JaxArray:
        values = values_of(net, graph, variables, batch, given)
        whole = run(net, variables, batch, {})

        def one(off: Any) -> JaxArray:
            logits = run(net, variables, batch, _edits(graph, values, off))
            return metric(logits, whole, batch["label"])

        return jax.vmap(one)(off)

    return jax.jit(step, out_shardings=out)


@functools.lru_cache(maxsize=64)
def ends_step(net: Net, metric: Metric, out: Sharding | None) -> Callable:
    """(variables, batch) -> M of the whole net on clean inputs, and on corrupt ones, [2, B]."""

    def step(variables: Any, batch: Batch) -> JaxArray:
        whole, other = (run(net, variables, b, {}) for b in (batch, corrupt_of(batch)))
        return jnp.stack([metric(logits, whole, batch["label"]) for logits in (whole, other)])

    return jax.jit(step, out_shardings=out)


@functools.lru_cache(maxsize=64)
def attributed_step(net: Net, graph: Graph, metric: Metric, out: Sharding | None) -> Callable:
    """(variables, batch, given, alphas [m]) -> first-order scores [S, B].

    The score of a site is what changes there, the value that it takes less the clean one, times the
    gradient of M there; the mean of gradients on inputs corrupt + alpha (clean - corrupt), where
    they enter the net as numbers. alpha 1 alone: attribution patching (arXiv 2310.10348) and, on
    edges, EAP, with the gradient at the stream that the target reads, before its normalisation.
    """
    enters, names = net.architecture.enters, written(graph)

    def step(variables: Any, batch: Batch, given: Values, alphas: JaxArray) -> JaxArray:
        entrances = tuple(shapes_of(net, batch, enters))
        whole, clean = record(net, variables, batch, (*entrances, *names))
        _, corrupt = record(net, variables, corrupt_of(batch), entrances)
        values = values_of(net, graph, variables, batch, given)
        change = {
            name: jnp.asarray(values[name], clean[name].dtype) - clean[name] for name in names
        }

        def total(shift: Values, alpha: JaxArray) -> JaxArray:
            edits: dict[str, Any] = {
                name: lambda x, name=name: (
                    corrupt[name] + alpha.astype(x.dtype) * (clean[name] - corrupt[name])
                )
                for name in entrances
            }
            for name, by in shift.items():
                edits[name] = _after(edits.get(name), by)
            logits = run(net, variables, batch, edits)
            return jnp.sum(metric(logits, whole, batch["label"]))

        def added(carry: Values, alpha: JaxArray) -> tuple[Values, None]:
            return jax.tree.map(jnp.add, carry, jax.grad(total)(zeros, alpha)), None

        zeros = _zeros(net, graph, variables, batch)
        sums, _ = jax.lax.scan(added, zeros, alphas)
        slopes = jax.tree.map(lambda x: x / len(alphas), sums)
        scores = _of_edges if isinstance(graph, Edges) else _of_nodes
        return scores(graph, change, slopes)

    return jax.jit(step, out_shardings=out)


def _after(first: Callable | None, by: JaxArray) -> Callable[[JaxArray], JaxArray]:
    return lambda x: (first(x) if first else x) + by


def _zeros(net: Net, graph: Graph, variables: Any, batch: Batch) -> dict[str, JaxArray]:
    """Of the shape of what is differentiated: nodes' values, or streams as readers see them."""
    if isinstance(graph, Edges):
        names = tuple(step.seam for step in graph.steps if isinstance(step, Reader))
    else:
        names = graph.taps
    shapes = jax.eval_shape(lambda v, b: record(net, v, b, names)[1], variables, batch)
    return {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}


def _of_nodes(graph: Graph, change: Values, slopes: Values) -> Float[JaxArray, "S B"]:
    found = {tap: change[tap].astype(jnp.float32) * slopes[tap] for tap in graph.taps}

    def one(site: Site) -> JaxArray:
        x = found[site.tap]
        x = x if site.position is None else x[:, site.position]
        if site.head is not None:
            x = jnp.take(x, site.head, axis=-2)
        return jnp.sum(x, axis=tuple(range(1, x.ndim)))

    return jnp.stack([one(site) for site in graph.sites])


def _of_edges(graph: Edges, change: Values, slopes: Values) -> Float[JaxArray, "E B"]:
    streams: dict[str, list[JaxArray]] = {}
    found = []
    for step in graph.steps:
        own = streams.setdefault(step.stream, [])
        if isinstance(step, Writer):
            x = change[step.adds]
            own.append(x if step.heads else x[:, :, None])
            continue
        slope = slopes[step.seam] if step.heads else slopes[step.seam][:, :, None]
        own[:] = [jnp.concatenate(own, axis=2)]
        scores = jnp.einsum("btsd,btnd->nsb", own[0], slope, precision="highest")
        found.append(scores.reshape(-1, scores.shape[-1]))  # as `pairs`: by target, then by source
    return jnp.concatenate(found).astype(jnp.float32)


@functools.lru_cache(maxsize=64)
def sums_step(
    net: Net, graph: Graph, positional: bool, padding: bool, out: Sharding | None
) -> Callable:
    """(variables, batch) -> by name (sums of what passes, numbers of terms), for means."""
    names = written(graph)

    def step(variables: Any, batch: Batch) -> dict[str, tuple[JaxArray, JaxArray]]:
        mask, found = batch["views"][net.view].get("mask"), {}
        for name, x in record(net, variables, batch, names)[1].items():
            inner = 2 if name.endswith(("head_out", "head_writes")) else 1
            weight = batch["real"].reshape(-1, *[1] * (x.ndim - 1 - inner))
            there = mask is not None and not padding and x.ndim - inner == 2
            if there and x.shape[1] == mask.shape[1]:
                weight = weight * (mask > 0)
            weight = jnp.broadcast_to(weight, x.shape[: x.ndim - inner])
            weight = weight.reshape(*weight.shape, *[1] * inner).astype(jnp.float32)
            axes = (0,) if positional else tuple(range(x.ndim - inner))
            terms = jnp.where(weight > 0, x.astype(jnp.float32), 0)
            sums = (jnp.sum(y, axis=axes, keepdims=True) for y in (terms, weight))
            found[name] = tuple(sums)
        return found

    return jax.jit(step, out_shardings=out)
