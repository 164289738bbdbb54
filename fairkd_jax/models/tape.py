"""The tape of one forward pass: what passes by name may be saved or replaced; what drops out.

Each intermediate of a network passes once. One vocabulary for all families:
    input                       first continuous representation: pixels, or the sum of embeddings
    embed                       what enters the first block
    block07/attn_query  block07/attn_key  block07/attn_value    [B, T, N, H]
    block07/attn_scores         [B, N, T, T], what softmax reads  }
    block07/attn_probs          [B, N, T, T]                      } computed only if asked for
    block07/head_out            [B, T, N, H], before the output projection
    block07/attn_out  block07/mlp_out  block07/out
    enc/embed  enc/block07/...  enc/out      (T5: two stacks; out is normalised)
    dec/embed  dec/block07/...  dec/out      (and from the decoder to the encoder:)
    dec/block07/cross_query  ...  dec/block07/cross_head_out  dec/block07/cross_out
    lm_logits                   [B, P, V], of words (T5 that answers in words)
    stem  stage2/block1/branch_out  out      (ResNet; a branch before it meets the shortcut)
    features                    what the head reads

Beside them are seams, where something reads a residual stream or writes into it. They are there for
edits alone: no `save` finds them, and what they cost is paid where one is edited (circuits):
    block07/query_in  key_in  value_in    [B, T, N, D], the stream as each head reads it
    block07/head_writes                   [B, T, N, D], what each head adds to it, without the bias
    block07/mlp_in   logits_in            [B, T, D]
    dec/block07/cross_query_in, and of the encoder's stream, not normalised: cross_key_in ...
"""

import re
from collections.abc import Callable

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
    """Lives for one forward pass: `x = tape("block07/out", x)`, `x = tape.drop(x, 0.1)`.

    `save` is a regular expression over whole names ("" saves nothing); `edits` maps names to
    callables. `train` says whether the pass is one of training; what it draws comes from `key`.
    `gather` is for parameters of blocks, see `Net.apply`.
    `finish` raises UnknownName for an edit, or a `save`, that met no intermediate.
    """

    def __init__(
        self,
        save: str = "",
        edits: dict | None = None,
        *,
        train: bool = False,
        key: jax.Array | None = None,
        gather: Callable | None = None,
    ):
        self.save, self.edits, self.train, self.key = save, dict(edits or {}), train, key
        self.gather = gather
        self.saved: dict[str, jax.Array] = {}
        self.names: list[str] = []
        self.offered: set[str] = set()
        self.seams: set[str] = set()
        self.draws = 0

    def wants(self, name: str) -> bool:
        """Whether `name` will be saved or edited: attention computes scores only then."""
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

    def seam(self, name: str, x: jax.Array, heads: int = 0) -> jax.Array:
        """A stream x [B, T, D] as one reader sees it; x itself unless the reader is edited.

        With `heads`, an edit is given a stream for each, [B, T, N, D].
        """
        if not self.edited(name):
            return x
        if heads:
            x = jnp.broadcast_to(x[:, :, None], (*x.shape[:2], heads, x.shape[2]))
        self.names.append(name)
        return self.edits[name](x)

    def edited(self, name: str) -> bool:
        """Whether a seam of this name is edited."""
        self.seams.add(name)
        return name in self.edits

    def drops(self, rate: float) -> bool:
        """Whether `drop` with this rate does anything."""
        return self.train and rate > 0

    def drop(self, x: jax.Array, rate: float, path: float = 0.0) -> jax.Array:
        """Dropout (arXiv 1207.0580): in training, zeros with probability `rate`, the rest scaled.

        With probability `path` all of an example is dropped; see `drop_path`.

        The rate is rounded to a multiple of 2^-16, so that one 32-bit draw serves two numbers: the
        draws are the better part of its cost. Raises ValueError in training without a key.
        """
        x = self.drop_path(x, path)
        if not self.drops(rate):
            return x
        key, (*lead, last) = self._draw(), x.shape
        words = jax.random.bits(key, (*lead, -(-last // 2)), jnp.uint32)
        halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(*lead, -1)[..., :last]
        dropped = round(rate * 2**16)
        kept = halves.astype(jnp.uint32) >= dropped
        return jnp.where(kept, x * (2**16 / max(2**16 - dropped, 1)), 0).astype(x.dtype)

    def drop_path(self, x: jax.Array, rate: float) -> jax.Array:
        """Stochastic depth (arXiv 1603.09382): in training, all that a block adds to an example is
        left out with probability `rate`; scaled where it is not, so that scoring needs no change.

        Raises ValueError in training without a key.
        """
        if not self.drops(rate):
            return x
        shape = (len(x), *[1] * (x.ndim - 1))
        kept = jax.random.bernoulli(self._draw(), 1 - rate, shape)
        return jnp.where(kept, x / max(1 - rate, 2**-16), 0).astype(x.dtype)

    def _draw(self) -> jax.Array:
        if self.key is None:
            raise ValueError("training with dropout draws random numbers: apply(..., key=...)")
        self.draws += 1
        return jax.random.fold_in(self.key, self.draws)

    def fork(self) -> "Tape":
        """A tape for a part of the pass that is traced by itself; `join` takes up what it heard."""
        part = Tape(self.save, self.edits, train=self.train, key=self.key, gather=self.gather)
        part.draws = self.draws
        return part

    def join(self, part: "Tape", saved: dict[str, jax.Array]) -> None:
        """Adds what `part` heard; `saved` are its intermediates as this trace sees them."""
        self.names += part.names
        self.offered |= part.offered
        self.seams |= part.seams
        self.saved |= saved
        self.draws = part.draws

    def finish(self) -> dict[str, jax.Array]:
        """The saved intermediates."""
        for name in self.edits:
            if name not in self.names:
                choices = {*self.names, *self.offered, *self.seams}
                raise UnknownName(name, "intermediate to edit", choices)
        if self.save and not self.saved:
            choices = {*self.names, *self.offered}
            raise UnknownName(self.save, "intermediates to save", choices)
        return self.saved
