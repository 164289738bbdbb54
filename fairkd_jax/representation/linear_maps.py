"""Linear maps from layers of one net to layers of another, fitted as examples pass.

    W, b = argmin sum |x W + b - y|^2 + ridge n v |W|^2    n rows, v the mean variance in x

Rows are real tokens, pixels of maps, or whole vectors; heads lie side by side; maps of the first
net are first brought to the second's resolution, larger ones by means over cells
(`distill.pairs.pool`), smaller ones bilinearly. Of a batch are kept the means and the products
about them, float32; on the host batches are put together and equations solved in float64.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.sharding import Sharding
from jaxtyping import Array as JaxArray
from jaxtyping import Bool, Float, Int

from fairkd_jax.distill.pairs import pool, positions
from fairkd_jax.models.net import Net
from fairkd_jax.representation.attention import Pairs, Readers, by_depth
from fairkd_jax.representation.kinds import Chosen
from fairkd_jax.sharding import put_replicated, replicated_like
from fairkd_jax.types import Array, Batch

FITTED = ("teacher", "own", "shuffled")  # see `products`
HEADS = ("head_out", "_query", "_key", "_value")  # how names of taps [B, T, N, H] end
Variables = tuple[Mapping[str, Any], Mapping[str, Any]]
Put = Callable[[Batch], Batch]
Sums = Mapping[str, Any]  # what `moments` gives, float64 on the host
Map = tuple[Float[np.ndarray, "D E"], Float[np.ndarray, "E"]]  # kernel, bias


def layer_pairs(readers: Readers, batch: Batch) -> tuple[Pairs, list[str]]:
    """(pairs of layers that a linear map may join, reasons for those that none can).

    Layers are paired by relative depth. Raises ValueError where the nets tell other labels, or no
    pair is left; UnknownName for taps that a net does not have.
    """
    nets = [net for net, _ in readers]
    if nets[0].num_classes != nets[1].num_classes:
        raise ValueError(
            f"stitch: the first net tells {nets[0].num_classes} labels, the second "
            f"{nets[1].num_classes}: their accuracies are of different tasks"
        )
    found = [_shapes(net, taps, batch) for net, taps in readers]
    same_view = (nets[0].view, nets[0].identity) == (nets[1].view, nets[1].identity)
    pairs, left_out = [], []
    for names in by_depth([*found[0].taps], [*found[1].taps]):
        shapes = [one.taps[name].shape for one, name in zip(found, names)]
        told = " and ".join(f"{name} {[*shape[1:]]}" for name, shape in zip(names, shapes))
        of_tokens = found[0].mask is not None and len(shapes[0]) > 2
        reason = _unlike(names, shapes)
        if not reason and of_tokens and not same_view:
            reason = f"of other tokens, views {nets[0].view!r} and {nets[1].view!r}"
        if reason:
            left_out.append(f"{told}: {reason}")
        else:
            pairs.append(names)
    if not pairs:
        had = " and ".join(", ".join(one.taps) for one in found)
        raise ValueError(
            "stitch: there is no pair of layers to join by a map. "
            + ("; ".join(left_out) or f"The nets have {had}")
        )
    return tuple(pairs), left_out


def _shapes(net: Net, taps: str, batch: Batch) -> Any:
    """As `net.shapes`, with taps in the order in which the net computes them."""
    order: list[str] = []  # what JAX returns has sorted keys

    def run(variables: Any, batch: Batch) -> Any:
        outputs = net.apply(variables, batch, train=False, save=taps)[0]
        order[:] = outputs.taps
        return outputs

    found = jax.eval_shape(run, net.variable_shapes(), batch)
    return found.replace(taps={name: found.taps[name] for name in order})


def _unlike(names: tuple[str, str], shapes: Sequence[tuple[int, ...]]) -> str:
    """Why no map joins two layers; "" where one does."""
    if any(name.endswith(("_scores", "_probs")) for name in names):
        return "attention maps are no features"
    ranks = [3 if name.endswith(HEADS) else len(shape) for name, shape in zip(names, shapes)]
    if ranks[0] != ranks[1] or not 2 <= ranks[0] <= 4:
        return "vectors, tokens and images have no positions in common"
    if ranks[0] == 3 and shapes[0][1] != shapes[1][1]:
        return "other positions"
    return ""


def products(
    readers: Readers,
    variables: Variables,
    batches: Iterable[Batch],
    chosen: Chosen,
    seed: int,
    put: Put,
) -> tuple[list[dict[str, Sums]], Pairs, list[str]]:
    """(for each pair of layers, and each of `FITTED`, what `solve` needs; pairs; what is left out).

    "teacher" is from the first net's layer to the second's, "own" from the second's to itself,
    "shuffled" from that of the first net on another example, at the same position. Those that
    `chosen` takes count. Raises ValueError without examples and as `layer_pairs` does,
    FloatingPointError where activations are not finite.
    """
    random, sums, pairs, left_out = np.random.default_rng(seed), None, (), []
    for batch in batches:
        batch = put(batch)
        out = replicated_like(batch)
        if not pairs:
            pairs, left_out = layer_pairs(readers, batch)
        kind, _ = chosen.take(*rows_of(batch, out))
        if np.any(kind >= 0):
            told = placed(_partners(kind >= 0, random), out)
            found = jax.device_get(_step(readers, pairs, out)(variables, batch, *told))
            found = jax.tree.map(lambda x: x.astype(np.float64), found)
            if not all(np.isfinite(x).all() for x in jax.tree.leaves(found)):
                raise FloatingPointError("stitch: activations of the nets are NaN or infinite")
            both = zip(sums or (), found)
            sums = [{k: merged(a[k], b[k]) for k in a} for a, b in both] or found
        if chosen.full:
            break
    if sums is None:
        raise ValueError("stitch: there is no example to fit maps to")
    return sums, pairs, left_out


def rows_of(batch: Batch, out: Sharding | None) -> tuple[np.ndarray, np.ndarray]:
    """(group, is it an example?) of every row of all processes."""
    rows = jax.device_get(_rows_step(out)({k: batch[k] for k in ("group", "real")}))
    return rows["group"], rows["real"] > 0


@functools.lru_cache(maxsize=128)
def _rows_step(out: Sharding | None) -> Callable:
    return jax.jit(lambda rows: rows, out_shardings=out)


def placed(values: Any, out: Sharding | None) -> Any:
    """Host values on every device that a batch is on."""
    return put_replicated(values, out.mesh) if out else jax.device_put(values)


def _partners(
    used: Bool[np.ndarray, "B"], random: np.random.Generator
) -> tuple[Float[np.ndarray, "B"], Int[np.ndarray, "B"]]:
    """(which rows count, of which other one each is given the activations when shuffled)."""
    order, partner = random.permutation(np.flatnonzero(used)), np.arange(len(used))
    partner[order] = np.roll(order, 1)
    return used.astype(np.float32), partner.astype(np.int32)


@functools.lru_cache(maxsize=128)
def _step(readers: Readers, pairs: Pairs, out: Sharding | None) -> Callable:
    """Cached: comparisons of equal nets share one compiled program."""

    def step(variables, batch, used, partner):
        found, sums = passes(readers, pairs, variables, batch), []
        others = used * (partner != jnp.arange(len(partner)))  # a row alone has no other
        for names in pairs:
            x, y, mask = met(names, *found)
            real, both = used[:, None] * mask, others[:, None] * mask * mask[partner]
            sums.append(
                {
                    "teacher": moments(x, y, real),
                    "own": moments(y, y, real),
                    "shuffled": moments(x[partner], y, both),
                }
            )
        return sums

    return jax.jit(step, out_shardings=out)


def passes(readers: Readers, pairs: Pairs, variables: Variables, batch: Batch) -> list[Any]:
    """What both nets put out, with the layers of all pairs."""
    saves = ["|".join(re.escape(name) for name in names) for names in zip(*pairs)]
    return [
        net.apply(own, batch, train=False, save=save)[0]
        for (net, _), own, save in zip(readers, variables, saves)
    ]


def met(names: tuple[str, str], first: Any, second: Any) -> tuple[JaxArray, JaxArray, JaxArray]:
    """(x [B, P, D], y [B, P, E], which positions are real [B, P]) of a pair of layers."""
    x, y = (_side_by_side(name, one.taps[name]) for name, one in zip(names, (first, second)))
    tokens = y.ndim == 3 and second.mask is not None and second.mask.shape[1] == y.shape[1]
    if y.ndim == 4:
        x = resized(x, *y.shape[1:3])
    x, y = (positions(v.astype(jnp.promote_types(v.dtype, jnp.float32))) for v in (x, y))
    mask = second.mask if tokens else jnp.ones(y.shape[:2])
    return x, y, (mask > 0).astype(jnp.float32)


def _side_by_side(name: str, x: JaxArray) -> JaxArray:
    return x.reshape(*x.shape[:2], -1) if name.endswith(HEADS) else x


def resized(x: Float[Array, "B Y X D"], height: int, width: int) -> Float[JaxArray, "B V U D"]:
    """A map at another resolution: along an axis means over cells, or bilinear where it grows."""
    x = pool(x, min(height, x.shape[1]), min(width, x.shape[2]))
    shape = (len(x), height, width, x.shape[-1])
    return x if x.shape == shape else jax.image.resize(x, shape, "bilinear")


def moments(
    x: Float[Array, "B P D"], y: Float[Array, "B P E"], weights: Float[Array, "B P"]
) -> dict[str, JaxArray]:
    """Of rows that count: their number "n", means "x" and "y", and sums of products of deviations
    from these, "xx" [D, D] and "xy" [D, E]. What does not count may be NaN.
    """
    counts = weights[..., None] > 0
    n = jnp.sum(weights)

    def about_mean(values: Array) -> tuple[JaxArray, JaxArray]:
        mean = jnp.sum(jnp.where(counts, values, 0), axis=(0, 1)) / jnp.maximum(n, 1)
        return mean, jnp.where(counts, values - mean, 0)

    (x_mean, x), (y_mean, y) = about_mean(x), about_mean(y)
    xx, xy = (jnp.einsum("bpd,bpe->de", x, other, precision="highest") for other in (x, y))
    return {"n": n, "x": x_mean, "y": y_mean, "xx": xx, "xy": xy}


def merged(a: Sums, b: Sums) -> Sums:
    """`moments` of both sets of rows (Chan, Golub and LeVeque 1983)."""
    n = a["n"] + b["n"]
    share = b["n"] / np.maximum(n, 1)
    by = {k: b[k] - a[k] for k in ("x", "y")}
    found = {"n": n} | {k: a[k] + share * by[k] for k in by}
    for k in by:
        found[f"x{k}"] = a[f"x{k}"] + b[f"x{k}"] + a["n"] * share * np.outer(by["x"], by[k])
    return found


def solve(sums: Sums, ridge: float) -> Map:
    """The map, in the precision of `moments`; 0 and the mean of y where x does not vary."""
    width = len(sums["xx"])
    scale = np.trace(sums["xx"]) / width
    kernel = np.zeros_like(sums["xy"])
    if scale > 0:
        regular = sums["xx"] + ridge * scale * np.eye(width)
        kernel = scipy.linalg.solve(regular, sums["xy"], assume_a="pos")
    return kernel, sums["y"] - sums["x"] @ kernel
