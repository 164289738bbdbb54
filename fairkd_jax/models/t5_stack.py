"""The encoder and the decoder of T5: attention that is not scaled, blocks, stacks."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from fairkd_jax.models.layers import Dense, RMSNorm, attend
from fairkd_jax.models.net import Architecture, call_block
from fairkd_jax.models.positions import relative_buckets
from fairkd_jax.models.tape import Tape

States, Source, Bias = Float[Array, "B T D"], Float[Array, "B S D"], Float[Array, "1 N T S"]
Places, Mask = Int[np.ndarray, " T"], Bool[Array, "#B 1 #T S"]
Memory = tuple[Float[Array, "B M D"], Bool[Array, "B 1 1 M"]]  # the encoder's states, their mask


def initial(inputs: int) -> nnx.Initializer:
    """Normal, of standard deviation 1 / sqrt(inputs)."""
    return nnx.initializers.normal(inputs**-0.5)


def _dense(arch: Architecture, inputs: int, outputs: int, rngs: nnx.Rngs, parts: int = 1) -> Dense:
    options = {"kernel_init": initial(inputs * parts), "dtype": jnp.dtype(arch.dtype)}
    return Dense(inputs, outputs, use_bias=False, rngs=rngs, **options)


class Attention(nnx.Module):
    """Of x to `source`; scores are not scaled."""

    def __init__(self, arch: Architecture, rngs: nnx.Rngs):
        self.heads, inner = (arch.heads, arch.head_width), arch.heads * arch.head_width
        self.query = _dense(arch, arch.width, inner, rngs, arch.head_width)
        self.key = _dense(arch, arch.width, inner, rngs)
        self.value = _dense(arch, arch.width, inner, rngs)
        self.out = _dense(arch, inner, arch.width, rngs)
        self.dropout = arch.dropout if arch.attention_dropout is None else arch.attention_dropout

    def __call__(
        self, x: States, source: Source, mask: Mask, bias: Bias | None, tape: Tape, *taps: str
    ) -> States:
        query, key, value = (
            f(y).reshape(*y.shape[:2], *self.heads)
            for f, y in ((self.query, x), (self.key, source), (self.value, source))
        )
        options = {"dropout": self.dropout, "bias": bias, "scale": 1.0}
        y = tape(taps[1], attend(query, key, value, mask, tape, taps[0], **options))
        return tape(taps[2], self.out(y.reshape(*x.shape[:2], -1)))


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
        self, x: States, mask: Mask, bias: Bias, memory: Memory | None, tape: Tape, name: str
    ) -> States:
        taps = (f"{name}/attn", f"{name}/head_out", f"{name}/attn_out")
        y = self.attn_norm(x)
        x = x + tape.drop(self.attn(y, y, mask, bias, tape, *taps), self.dropout, self.drop_path)
        if memory is not None:
            taps = (f"{name}/cross", f"{name}/cross_head_out", f"{name}/cross_out")
            y = self.cross(self.cross_norm(x), *memory, None, tape, *taps)
            x = x + tape.drop(y, self.dropout, self.drop_path)
        y = self.mlp_norm(x)
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
    ) -> States:
        sizes = self.relative.num_embeddings, self.max_distance
        buckets = relative_buckets(places - places[:, None], *sizes, causal=self.decodes)
        bias = self.relative(jnp.asarray(buckets)).transpose(2, 0, 1)[None]
        x = tape(f"{name}/embed", tape.drop(x, self.dropout))
        for i in range(self.depth):
            block, path = getattr(self, f"block{i:02}"), f"{name}/block{i:02}"
            x = call_block(block, tape, path, x, mask, bias, memory, remat=self.remat)
        return tape(f"{name}/out", tape.drop(self.norm(x), self.dropout))
