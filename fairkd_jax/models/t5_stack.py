"""The encoder and the decoder of T5: attention that is not scaled, blocks, stacks."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from fairkd_jax.models.layers import Dense, RMSNorm, attend, by_head, from_heads, readings
from fairkd_jax.models.net import Architecture, call_block
from fairkd_jax.models.positions import relative_buckets
from fairkd_jax.models.tape import Tape

States, Bias = Float[Array, "B T D"], Float[Array, "1 N T S"]
Places, Mask = Int[np.ndarray, " T"], Bool[Array, "#B 1 #T S"]
Seen = Float[Array, "B _ *N D"]  # a stream, or one for each head


class Memory(NamedTuple):
    """What a decoder is given of the encoder."""

    states: Float[Array, "B M D"]
    mask: Bool[Array, "B 1 1 M"]
    stream: Float[Array, "B M D"]  # of which the states are what `norm` gives
    norm: Callable[[Seen], Seen]

    def read(self, tape: Tape, name: str, heads: int) -> "Read":
        """As the block of that name reads it, for its keys and for its values, and the mask."""
        seams = (f"{name}/cross_{part}_in" for part in ("key", "value"))
        own = (tape.seam(seam, self.stream, heads) for seam in seams)
        read = (self.states if y is self.stream else self.norm(y) for y in own)
        return *read, self.mask


Read = tuple[Float[Array, "B M *N D"], Float[Array, "B M *N D"], Bool[Array, "B 1 1 M"]]


def initial(inputs: int) -> nnx.Initializer:
    """Normal, of standard deviation 1 / sqrt(inputs)."""
    return nnx.initializers.normal(inputs**-0.5)


def _dense(arch: Architecture, inputs: int, outputs: int, rngs: nnx.Rngs, parts: int = 1) -> Dense:
    options = {"kernel_init": initial(inputs * parts), "dtype": jnp.dtype(arch.dtype)}
    return Dense(inputs, outputs, use_bias=False, rngs=rngs, **options)


class Attention(nnx.Module):
    """Of x to `source`; scores are not scaled."""

    def __init__(self, arch: Architecture, rngs: nnx.Rngs):
        self.heads, inner = arch.heads, arch.heads * arch.head_width
        self.query = _dense(arch, arch.width, inner, rngs, arch.head_width)
        self.key = _dense(arch, arch.width, inner, rngs)
        self.value = _dense(arch, arch.width, inner, rngs)
        self.out = _dense(arch, inner, arch.width, rngs)
        self.dropout = arch.dropout if arch.attention_dropout is None else arch.attention_dropout

    def __call__(
        self, seen: Sequence[Seen], mask: Mask, bias: Bias | None, tape: Tape, *taps: str
    ) -> States:
        """`seen`: what its queries, keys and values are made of."""
        parts = (self.query, self.key, self.value)
        query, key, value = (by_head(f, y, self.heads) for f, y in zip(parts, seen))
        options = {"dropout": self.dropout, "bias": bias, "scale": 1.0}
        y = tape(taps[1], attend(query, key, value, mask, tape, taps[0], **options))
        return tape(taps[2], from_heads(self.out, y, tape, taps[1].replace("_out", "_writes")))


class Block(nnx.Module):
    """Attention, that to the encoder where there is one, a perceptron; each adds to its input."""

    def __init__(self, arch: Architecture, decodes: bool, drop_path: float, rngs: nnx.Rngs):
        norm = arch.width, arch.epsilon, arch.dtype
        self.attn, self.attn_norm = Attention(arch, rngs), RMSNorm(*norm)
        if decodes:
            self.cross, self.cross_norm = Attention(arch, rngs), RMSNorm(*norm)
        self.mlp = nnx.Dict()
        for part in ("gate", "inner") if arch.gated else ("inner",):
            self.mlp[part] = _dense(arch, arch.width, arch.mlp_width, rngs)
        self.mlp["out"] = _dense(arch, arch.mlp_width, arch.width, rngs)
        self.mlp_norm = RMSNorm(*norm)
        self.dropout, self.drop_path = arch.dropout, drop_path

    def __call__(
        self, x: States, mask: Mask, bias: Bias, memory: Read | None, tape: Tape, name: str
    ) -> States:
        taps = (f"{name}/attn", f"{name}/head_out", f"{name}/attn_out")
        seams = (f"{name}/{part}_in" for part in ("query", "key", "value"))
        seen = readings(self.attn_norm, x, tape, self.attn.heads, *seams)
        x = x + tape.drop(self.attn(seen, mask, bias, tape, *taps), self.dropout, self.drop_path)
        if memory is not None:
            taps = (f"{name}/cross", f"{name}/cross_head_out", f"{name}/cross_out")
            heads = self.cross.heads
            (query,) = readings(self.cross_norm, x, tape, heads, f"{name}/cross_query_in")
            y = self.cross((query, *memory[:2]), memory[2], None, tape, *taps)
            x = x + tape.drop(y, self.dropout, self.drop_path)
        y = self.mlp_norm(tape.seam(f"{name}/mlp_in", x))
        if "gate" in self.mlp:
            y = jax.nn.gelu(self.mlp["gate"](y), approximate=True) * self.mlp["inner"](y)
        else:
            y = jax.nn.relu(self.mlp["inner"](y))
        y = tape(f"{name}/mlp_out", self.mlp["out"](tape.drop(y, self.dropout)))
        return tape(f"{name}/out", x + tape.drop(y, self.dropout, self.drop_path))


class Stack(nnx.Module):
    """Blocks block00, block01, ... that share one bias of relative positions; a last norm."""

    def __init__(self, arch: Architecture, depth: int, decodes: bool, rngs: nnx.Rngs):
        self.depth, self.decodes = depth, decodes
        self.max_distance, self.dropout, self.remat = arch.max_distance, arch.dropout, arch.remat
        init = {"embedding_init": initial(arch.width), "rngs": rngs}
        self.relative = nnx.Embed(arch.buckets, arch.heads, **init)
        for i in range(depth):
            rate = arch.drop_path * (i + 1) / depth
            setattr(self, f"block{i:02}", Block(arch, decodes, rate, rngs))
        self.norm = RMSNorm(arch.width, arch.epsilon, arch.dtype)

    def __call__(
        self, x: States, places: Places, mask: Mask, memory: Memory | None, tape: Tape, name: str
    ) -> tuple[States, States]:
        """(its states, the stream of which they are the last norm)."""
        sizes = self.relative.num_embeddings, self.max_distance
        buckets = relative_buckets(places - places[:, None], *sizes, causal=self.decodes)
        bias = self.relative(jnp.asarray(buckets)).transpose(2, 0, 1)[None]
        x = tape(f"{name}/embed", tape.drop(x, self.dropout))
        for i in range(self.depth):
            block, path = getattr(self, f"block{i:02}"), f"{name}/block{i:02}"
            read = memory and memory.read(tape, path, block.cross.heads)
            x = call_block(block, tape, path, x, mask, bias, read, remat=self.remat)
        y = self.norm(tape.seam("logits_in", x) if self.decodes else x)
        return tape(f"{name}/out", tape.drop(y, self.dropout)), x
