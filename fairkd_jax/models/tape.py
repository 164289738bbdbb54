"""The tape: each intermediate of a network passes once, by name, and may be saved or replaced.

One vocabulary for all families:
    input                       first continuous representation: pixels, or the sum of embeddings
    embed                       what enters the first block
    block07/attn_probs          [B, N, T, T], computed only if asked for
    block07/head_out            [B, T, N, H], before the output projection
    block07/attn_out  block07/mlp_out  block07/out
    enc/block07/...  dec/block07/...  dec/block07/cross_probs        (T5)
    stem  stage2/block1/out                                          (ResNet)
    features                    what the head reads
"""

import re

import jax
import jax.numpy as jnp
from flax import struct

from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Array


@struct.dataclass
class Edit:
    """Replaces an intermediate by `value` where `mask` is 1 (activation patching)."""

    value: Array  # broadcastable to the intermediate
    mask: Array = 1.0  # broadcastable to the intermediate

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(jnp.asarray(self.mask, bool), jnp.asarray(self.value, x.dtype), x)


@struct.dataclass
class Mix:
    """Mixes each example's intermediate with that of another example (mixup, manifold mixup)."""

    partner: Array  # int32 [B], index of the other example
    weight: Array  # float32 [B], share of the example itself

    def __call__(self, x: jax.Array) -> jax.Array:
        weight = self.weight.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)
        return weight * x + (1 - weight) * x[self.partner]


class Tape:
    """Lives for one forward pass: `x = tape("block07/out", x)`.

    `save` is a regular expression over whole names ("" saves nothing); `edits` maps names to
    callables. `finish` raises UnknownName for an edit, or a `save`, that met no intermediate.
    """

    def __init__(self, save: str = "", edits: dict | None = None):
        self.save, self.edits = save, dict(edits or {})
        self.saved: dict[str, jax.Array] = {}
        self.names: list[str] = []
        self.offered: set[str] = set()

    def wants(self, name: str) -> bool:
        """Whether `name` will be saved or edited: attention computes probabilities only then."""
        self.offered.add(name)
        return name in self.edits or bool(self.save and re.fullmatch(self.save, name))

    def __call__(self, name: str, x: jax.Array) -> jax.Array:
        if name in self.names:
            raise ValueError(f"{name!r} passed the tape twice: each intermediate has its own name")
        self.names.append(name)
        if name in self.edits:
            x = self.edits[name](x)
        if self.save and re.fullmatch(self.save, name):
            self.saved[name] = x
        return x

    def finish(self) -> dict[str, jax.Array]:
        """The saved intermediates."""
        for name in self.edits:
            if name not in self.names:
                raise UnknownName(name, "intermediate to edit", {*self.names, *self.offered})
        if self.save and not self.saved:
            choices = {*self.names, *self.offered}
            raise UnknownName(self.save, "intermediates to save", choices)
        return self.saved
