"""The contract of a measure of similarity between two layers' features on the same examples.

A measure is computed in three steps, so that all pairs of layers of two nets share the costly ones:
`relate` once for each layer (a Gram matrix of all examples, say), `settle` once for each layer and
set of examples (all of them; all but a block, for the jackknife), `pair` for each pair of layers.
What relates an example to all others (the bandwidth of a kernel, ranks, who is near) is that among
all examples, also where a block of them is left out.

A measure that `streams` follows from sums over examples too (`cka.Moments` of a pair of layers), so
its memory does not depend on how many examples there are. The others need matrices of all pairs of
examples, n^2 numbers a layer, of the examples that are compared.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax import registry
from fairkd_jax.representation.cka import Moments
from fairkd_jax.types import Array

INVARIANCES = ("orthogonal", "isotropic_scale", "invertible_linear", "translation")
"""Maps of a layer's features, each layer by its own, that a measure may not notice."""


@dataclasses.dataclass(frozen=True)
class Measure(abc.ABC):
    """The contract of a file in `representation/similarity/`: a frozen dataclass of options.

    All of it is traced inside `jax.jit`. Rows with mask 0 change nothing, though they are finite. A
    pair for which the measure is undefined gives NaN: too few examples, features that do not vary,
    and what `undefined` says.
    """

    keeps: ClassVar[frozenset[str]]  # the INVARIANCES that it has
    same: ClassVar[float]  # of a layer with itself: 1 of a similarity, 0 of a distance
    least: ClassVar[int]  # examples below which it is undefined
    undefined: ClassVar[str]  # when else it is: a phrase that ends "undefined where ..."
    streams: ClassVar[bool] = False  # does `of_sums` give it too?

    @abc.abstractmethod
    def relate(self, x: Float[Array, "n D"], mask: Float[Array, "n"]) -> Any:
        """What a layer's features say of all examples: arrays, of any shape."""

    @abc.abstractmethod
    def settle(self, related: Any, mask: Float[Array, "n"]) -> Any:
        """What it says of the examples with mask 1: at most those that were related."""

    @abc.abstractmethod
    def pair(self, first: Any, second: Any, mask: Float[Array, "n"]) -> Float[JaxArray, ""]:
        """The measure of two layers, of what `settle` gave for each."""

    def of_sums(self, sums: Moments) -> Float[JaxArray, ""]:
        """The measure of two layers from sums over examples, where it `streams`."""
        raise NotImplementedError(f"{type(self).__name__} needs all pairs of examples")

    def between(
        self, x: Float[Array, "n D1"], y: Float[Array, "n D2"], mask: Float[Array, "n"]
    ) -> Float[JaxArray, ""]:
        """The measure of two layers by themselves."""
        a, b = (self.settle(self.relate(z, mask), mask) for z in (x, y))
        return self.pair(a, b, mask)


def label(measure: Measure) -> str:
    """ "rbf_cka", and the options that are not at their defaults: "rbf_cka, bandwidth 0.5"."""
    said = [
        f"{f.name} {getattr(measure, f.name)}"
        for f in dataclasses.fields(measure)
        if getattr(measure, f.name) != f.default
    ]
    return ", ".join([registry.name_of(type(measure)), *said])


def build(specs: tuple[Mapping[str, Any], ...]) -> dict[str, Measure]:
    """Measures by their labels, in order. Raises ValueError for two that are one."""
    found: dict[str, Measure] = {}
    for spec in specs:
        measure = registry.build("similarity", spec)
        if (name := label(measure)) in found:
            raise ValueError(f"compare.measures has {name!r} twice: leave one out")
        found[name] = measure
    return found
