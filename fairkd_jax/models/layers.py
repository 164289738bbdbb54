"""Blocks that several families share: dense, attention, convolution, normalisation.

Parameters are float32; `dtype` is what products are computed in, "float32" or "bfloat16".
Statistics of a normalisation, softmax and logits are float32 whatever it is.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from fairkd_jax.models.tape import Tape
from fairkd_jax.registry import UnknownName

DTYPES = ("float32", "bfloat16")
he_normal = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")  # arXiv 1502.01852


def check_dtype(dtype: str, family: str) -> None:
    """Raises UnknownName for a compute dtype that is not offered."""
    if dtype not in DTYPES:
        raise UnknownName(dtype, f"dtype of {family}:", DTYPES)


class Dense(nnx.Linear):
    """`x @ kernel + bias` over the last axis, as one matrix product.

    With the leading axes merged the product takes the fast path on CPU; elsewhere it is the same.
    """

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        flat = super().__call__(x.reshape(-1, self.in_features))
        return flat.reshape(*x.shape[:-1], self.out_features)


def attend(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S N H"],
    value: Float[Array, "B S N H"],
    mask: Bool[Array, "#B 1 #T S"] | None,
    tape: Tape,
    name: str,
    *,
    dropout: float = 0.0,
    bias: Float[Array, "1 N T S"] | None = None,
    scale: float | None = None,
) -> Float[Array, "B T N H"]:
    """`softmax(scale query key^T + bias) value` over the keys S where `mask` is true.

    Passes the tape as NAME_query, NAME_key and NAME_value, as they come; NAME_scores, what softmax
    reads, and NAME_probs, [B, N, T, S] float32.

    `scale` is 1 / sqrt(H) unless given. Fused by XLA's library call, unless the tape wants scores
    or probabilities, these are dropped out in training, or on CPU, where products of [T, H]
    matrices are faster. All ways give the same; masked keys have probability 0.
    """
    query, key, value = (
        tape(f"{name}_{part}", x) for part, x in (("query", query), ("key", key), ("value", value))
    )
    inside = [tape.wants(f"{name}_{part}") for part in ("scores", "probs")]
    if not (any(inside) or tape.drops(dropout) or _on_cpu()):
        return jax.nn.dot_product_attention(query, key, value, bias=bias, mask=mask, scale=scale)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    query, keys = (query * scale).transpose(0, 2, 1, 3), key.transpose(0, 2, 3, 1)
    precise = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.matmul(query, keys, preferred_element_type=precise)
    if bias is not None:
        scores += bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    probs = tape(f"{name}_probs", jax.nn.softmax(tape(f"{name}_scores", scores)))
    probs = tape.drop(probs, dropout).astype(value.dtype)
    return jnp.matmul(probs, value.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)


def readings(
    norm: Callable[[jax.Array], jax.Array], x: jax.Array, tape: Tape, heads: int, *names: str
) -> list[jax.Array]:
    """A stream x [B, T, D], normalised, as each of some readers sees it: see the seams of the tape.

    All see the same, unless they are edited; then each head may see its own, [B, T, N, D].
    """
    same = norm(x)
    seen = [tape.seam(name, x, heads) for name in names]
    return [same if own is x else norm(own) for own in seen]


def by_head(dense: Dense, x: Float[Array, "B T *N D"], heads: int) -> Float[Array, "B T N H"]:
    """`dense` of x, its units in heads; where x is a stream for each head, of that."""
    if x.ndim == 3:
        return dense(x).reshape(*x.shape[:2], heads, -1)
    kernel = dense.kernel[...].astype(x.dtype).reshape(x.shape[-1], heads, -1)
    y = jnp.einsum("btnd,dnh->btnh", x, kernel)
    return y if dense.bias is None else y + dense.bias[...].astype(x.dtype).reshape(heads, -1)


def from_heads(
    dense: Dense, y: Float[Array, "B T N H"], tape: Tape, name: str
) -> Float[Array, "B T D"]:
    """`dense` of all heads; what each head writes passes the tape's seam `name`, where edited."""
    if not tape.edited(name):
        return dense(y.reshape(*y.shape[:2], -1))
    kernel = dense.kernel[...].astype(y.dtype).reshape(*y.shape[2:], -1)
    total = jnp.sum(tape.seam(name, jnp.einsum("btnh,nhd->btnd", y, kernel)), axis=2)
    return total if dense.bias is None else total + dense.bias[...].astype(y.dtype)


def _on_cpu() -> bool:
    """Whether XLA compiles for a CPU, where some of its operations are far slower than others."""
    return jax.default_backend() == "cpu"


def convolve(
    x: Float[Array, "B Y X K"], kernel: Float[Array, "M N K F"], stride: int
) -> Float[Array, "B V U F"]:
    """A convolution padded by `(size - 1) // 2` on every side, as PyTorch pads.

    On CPU it is a matrix product over patches where XLA's convolution is slow: a kernel of 1x1, or
    one larger than the map it makes (its gradient takes tens to hundreds of times longer there).
    """
    height, width, _, features = kernel.shape
    pad = ((height - 1) // 2,) * 2, ((width - 1) // 2,) * 2
    rows = x.shape[1] + sum(pad[0]) - height + 1  # before the stride
    columns = x.shape[2] + sum(pad[1]) - width + 1
    larger = height > -(-rows // stride) or width > -(-columns // stride)
    if not ((larger or height * width == 1) and _on_cpu()):
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, pad, dimension_numbers=dims)
    x = jnp.pad(x, ((0, 0), *pad, (0, 0)))
    shifts = [(m, n) for m in range(height) for n in range(width)]
    patches = [x[:, m : m + rows : stride, n : n + columns : stride] for m, n in shifts]
    patches = jnp.concatenate(patches, axis=-1)
    flat = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, features)
    return flat.reshape(*patches.shape[:-1], features)


def max_pool(x: Float[Array, "B Y X K"], size: int, stride: int) -> Float[Array, "B V U K"]:
    """The largest of each window, padded by `(size - 1) // 2` on every side.

    On CPU it is taken along rows and then along columns: the gradient of XLA's own operation takes
    ten times longer there. Where several are largest this way shares the gradient among them.
    """
    pad = ((size - 1) // 2,) * 2
    if not _on_cpu():
        return nnx.max_pool(x, (size, size), (stride, stride), (pad, pad))
    for axis in (1, 2):
        length = x.shape[axis] + sum(pad) - size + 1
        widths = [pad if a == axis else (0, 0) for a in range(x.ndim)]
        padded = jnp.pad(x, widths, constant_values=-jnp.inf)
        shifts = [
            jax.lax.slice_in_dim(padded, i, i + length, stride, axis=axis) for i in range(size)
        ]
        x = functools.reduce(jnp.maximum, shifts)
    return x


class Conv(nnx.Module):
    """A square convolution without bias; `kernel` is [size, size, inputs, outputs]."""

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int, dtype: str, rngs: nnx.Rngs
    ):
        self.kernel = nnx.Param(he_normal(rngs.params(), (size, size, inputs, outputs)))
        self.stride, self.dtype = stride, dtype

    def __call__(self, x: Float[Array, "B Y X K"]) -> Float[Array, "B V U F"]:
        return convolve(x.astype(self.dtype), self.kernel[...].astype(self.dtype), self.stride)


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last (arXiv 1502.03167), with PyTorch's statistics.

    In training it normalises by the biased variance of the batch, padding rows included, and moves
    the running statistics a tenth of the way to the batch's mean and unbiased variance.
    """

    def __init__(self, width: int, dtype: str):
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(width)), nnx.BatchStat(jnp.ones(width))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "... K"], tape: Tape) -> Float[Array, "... K"]:
        x = x.astype(jnp.float32)
        mean, var = self.mean[...], self.var[...]
        if tape.train:
            axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
            batch_mean, batch_var = jnp.mean(x, axes), jnp.var(x, axes)
            unbiased = batch_var * (count / max(count - 1, 1))
            self.mean[...] = 0.9 * mean + 0.1 * batch_mean
            self.var[...] = 0.9 * var + 0.1 * unbiased
            mean, var = batch_mean, batch_var
        scale = self.scale[...] * jax.lax.rsqrt(var + 1e-5)
        shift = self.bias[...] - mean * scale  # one product and one sum for each pixel
        return (x * scale + shift).astype(self.dtype)


class GroupNorm(nnx.Module):
    """Group normalisation (arXiv 1803.08494): each example by itself, so there are no statistics.

    32 groups of channels, as in the paper, or the most that divide both 32 and the width.
    """

    def __init__(self, width: int, dtype: str):
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.groups, self.dtype = math.gcd(32, width), dtype

    def __call__(self, x: Float[Array, "B *M K"], tape: Tape) -> Float[Array, "B *M K"]:
        del tape  # the same in training
        grouped = x.astype(jnp.float32).reshape(len(x), -1, self.groups, x.shape[-1] // self.groups)
        mean = jnp.mean(grouped, axis=(1, 3), keepdims=True)
        var = jnp.var(grouped, axis=(1, 3), keepdims=True)
        normal = ((grouped - mean) * jax.lax.rsqrt(var + 1e-5)).reshape(x.shape)
        return (normal * self.scale[...] + self.bias[...]).astype(self.dtype)


class RMSNorm(nnx.Module):
    """Division by the root of the mean square, in float32 (arXiv 1910.07467, eq. 4); no bias."""

    def __init__(self, width: int, epsilon: float, dtype: str):
        self.scale = nnx.Param(jnp.ones(width))
        self.epsilon, self.dtype = epsilon, dtype

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        x = x.astype(jnp.float32)
        square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return (x * jax.lax.rsqrt(square + self.epsilon) * self.scale[...]).astype(self.dtype)
