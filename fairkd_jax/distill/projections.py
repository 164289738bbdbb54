"""Maps that are learned beside the student: from its width to the teacher's, plain or normalised.

They act on the last axis, as a 1x1 convolution does; parameters are dicts of arrays.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fairkd_jax.distill import pairs
from fairkd_jax.distill.base import FEATURES, Distiller, Pair, mean_over
from fairkd_jax.distill.pairs import Met
from fairkd_jax.models.layers import convolve
from fairkd_jax.registry import UnknownName, name_of
from fairkd_jax.types import Outputs, Spec, Tree

PROJECTORS = ("dense", "convolutions")
EPSILON = 1e-5  # of batch normalisation, as in PyTorch


def for_each(of: tuple[Pair, ...], spec: Spec, key: Array, make: Any) -> dict[str, Any]:
    """`make(key, student's shape, teacher's shape)` by the name of each pair and teacher."""
    made = {}
    for i, pair in enumerate(of):
        for k in range(len(spec.teachers)):
            draw = jax.random.fold_in(jax.random.fold_in(key, i), k)
            made[pairs.name(pair, k)] = make(draw, *pairs.shapes(pair, k, spec))
    return made


def dense(key: Array, inputs: int, outputs: int, bias: bool = True) -> dict[str, Array]:
    """A dense map to learn."""
    kernel = jax.nn.initializers.lecun_normal()(key, (inputs, outputs))
    return {"kernel": kernel} | ({"bias": jnp.zeros(outputs)} if bias else {})


def apply(layer: dict[str, Array], x: Float[Array, "B *P D"]) -> Float[Array, "B *P F"]:
    """`x @ kernel + bias`."""
    return x @ layer["kernel"] + layer.get("bias", 0.0)


def aligning(of: tuple[Pair, ...], spec: Spec, key: Array) -> dict[str, dict[str, Array]]:
    """A dense map for each pair and teacher whose widths differ."""

    def make(key, ours, theirs):
        return {} if ours[-1] == theirs[-1] else dense(key, ours[-1], theirs[-1])

    made = for_each(of, spec, key, make)
    return {name: layer for name, layer in made.items() if layer}


def aligned(met: Met, params: dict[str, Any]) -> Met:
    """With the student's intermediate as wide as the teacher's."""
    if met.name not in params:
        return met
    return met._replace(ours=met.kept(apply(params[met.name], met.ours)))


def normalised(
    key: Array, inputs: int, outputs: int, size: int = 1
) -> dict[str, Float[Array, "*size"]]:
    """A convolution of size x size to learn, then batch normalisation, then ReLU."""
    shape = (inputs, outputs) if size == 1 else (size, size, inputs, outputs)
    kernel = jax.nn.initializers.he_normal()(key, shape)
    return {"kernel": kernel, "scale": jnp.ones(outputs), "bias": jnp.zeros(outputs)}


def apply_normalised(
    layer: dict[str, Array],
    x: Float[Array, "B *P D"],
    met: Met,
    stride: int = 1,
) -> Float[Array, "B *V F"]:
    """`relu(scale (y - mean) / sqrt(var + 1e-5) + bias)` of y, the convolution of x.

    As in training: mean and biased variance are those of the batch, over its real rows and
    positions. Before them a bias of the convolution would change nothing.
    """
    kernel = layer["kernel"]
    y = x @ kernel if kernel.ndim == 2 else convolve(x, kernel, stride)
    mean = met.overall(y)
    var = met.overall((y - mean) ** 2)
    return jax.nn.relu((y - mean) * jax.lax.rsqrt(var + EPSILON) * layer["scale"] + layer["bias"])


def check_projector(method: Distiller, spec: Spec, projector: str, factor: int) -> None:
    """Raises as `SimKD.check` says."""
    called = f"distill.{name_of(type(method))}"
    if projector not in PROJECTORS:
        raise UnknownName(projector, f"value of {called}.projector:", PROJECTORS)
    if factor < 1:
        raise ValueError(f"{called}: factor = {factor}, expected 1 or more")
    if projector == "dense" and method.pairs != FEATURES:
        raise ValueError(
            f"{called}: pairs = {method.pairs}, but a dense projector leads from what the "
            f"student's head reads to what the teacher's does: pairs = {FEATURES}. Of others the "
            "projector is 'convolutions'"
        )
    pairs.check(method, spec, same="rank")


def projectors(
    of: tuple[Pair, ...], spec: Spec, key: Array, projector: str, factor: int
) -> dict[str, Any]:
    """Those of SimKD (arXiv 2203.14001): 1x1, 3x3 and 1x1, inside of the teacher's width / factor.

    Of vectors and tokens all three are 1x1. Or one dense map.
    """

    def make(key, ours, theirs):
        if projector == "dense":
            return dense(key, ours[-1], theirs[-1])
        inside = max(theirs[-1] // factor, 1)
        widths, sizes = (ours[-1], inside, inside, theirs[-1]), (1, 3 if len(ours) == 4 else 1, 1)
        layers = zip(jax.random.split(key, 3), widths, widths[1:], sizes)
        return {f"layer{i}": normalised(*layer) for i, layer in enumerate(layers)}

    return for_each(of, spec, key, make)


def projected(own: dict[str, Any], met: Met) -> tuple[Float[Array, "B *P F"], Met]:
    """(the student's intermediate behind its projector, the pair, of maps of one size)."""
    if "kernel" in own:
        return apply(own, met.ours), met
    met = met.pooled()
    x = met.ours
    for name in sorted(own):
        x = apply_normalised(own[name], x, met)
    return x, met


def square_error(x: Float[Array, "B *P F"], met: Met) -> Float[Array, "B"]:
    """The mean over positions and channels of the squared difference from the teacher."""
    return met.mean(jnp.mean(pairs.positions((x - met.theirs) ** 2), axis=2))


def with_reused_head(
    student: Tree, teachers: tuple[Tree, ...], shares: tuple, projectors: list[dict[str, Any]]
) -> Tree:
    """The student with the teachers' heads behind dense maps of its features, as one dense head.

    `(f P + b) W + c` is `f (P W) + (b W + c)`; of several teachers the mean by their shares. With
    other projectors the student as it is. Raises ValueError for a head that is not one dense layer.
    """
    if not all("kernel" in projector for projector in projectors):
        return student
    heads = [net.get("head", {}) for net in (student, *teachers)]
    shapes = [{k: v.shape for k, v in head.items()} for head in heads]
    classes = shapes[0].get("bias", ())
    widths = [projectors[0]["kernel"].shape[0], *(p["kernel"].shape[1] for p in projectors)]
    if shapes != [{"kernel": (width, *classes), "bias": classes} for width in widths]:
        raise ValueError(
            "a teacher's head is reused only where all heads are one dense layer on the net's "
            f"features, of {widths} units, for the same classes; here heads are {shapes}"
        )
    behind = [
        {"kernel": p["kernel"] @ w["kernel"], "bias": p["bias"] @ w["kernel"] + w["bias"]}
        for p, w in zip(projectors, heads[1:], strict=True)
    ]
    told = [Outputs(None, share=share) for share in shares]
    made = {k: mean_over(told, [head[k] for head in behind]) for k in heads[0]}
    return dict(student) | {"head": made}
