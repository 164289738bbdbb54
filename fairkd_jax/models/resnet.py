"""Residual networks for images: the ImageNet form (arXiv 1512.03385, stride in the 3x3) and CIFAR's.

The CIFAR form has a 3x3 stem without pooling and shortcuts without parameters (section 4.2 there):
every second pixel, and zeros for the channels that are not there.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fairkd_jax.models.layers import BatchNorm, Conv, Dense, check_dtype
from fairkd_jax.models.net import Architecture
from fairkd_jax.models.tape import Tape
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Outputs

BLOCKS = {"basic": ((3, 1), (3, 1)), "bottleneck": ((1, 4), (3, 4), (1, 1))}
"""Sizes of a block's convolutions, and by what the block's width is divided there."""
STEMS = ("pooled", "plain")
SHORTCUTS = ("projection", "padding")


def _imagenet(depths: tuple[int, ...], block: str) -> dict[str, Any]:
    widths = (64, 128, 256, 512) if block == "basic" else (256, 512, 1024, 2048)
    return {"depths": depths, "widths": widths, "block": block}


def _cifar(depths: tuple[int, ...], widths: tuple[int, ...]) -> dict[str, Any]:
    form = {"stem_width": widths[0], "stem": "plain", "shortcut": "padding"}
    return {"depths": depths, "widths": widths} | form


@dataclasses.dataclass(frozen=True)
class ResNet(Architecture):
    """Reads {"pixels": float32 [B, Y, X, K]}; its features are the average over the last map.

    Taps: input, stem (what enters the first block), stage1/block1/out ..., features.
    """

    view: ClassVar[str] = "image"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": _cifar((1, 1), (8, 16)),
        "mini": _cifar((2, 2), (16, 32)),
        "cifar20": _cifar((3, 3, 3), (16, 32, 64)),
        "cifar32": _cifar((5, 5, 5), (16, 32, 64)),
        "cifar44": _cifar((7, 7, 7), (16, 32, 64)),
        "cifar56": _cifar((9, 9, 9), (16, 32, 64)),
        "18": _imagenet((2, 2, 2, 2), "basic"),
        "34": _imagenet((3, 4, 6, 3), "basic"),
        "50": _imagenet((3, 4, 6, 3), "bottleneck"),
        "101": _imagenet((3, 4, 23, 3), "bottleneck"),
        "152": _imagenet((3, 8, 36, 3), "bottleneck"),
    }
    model_type: ClassVar[str] = "resnet"
    ignored_keys: ClassVar[str] = r".*\.num_batches_tracked"

    depths: tuple[int, ...] = (2, 2, 2, 2)  # blocks by stage; each stage but the first halves the map
    widths: tuple[int, ...] = (64, 128, 256, 512)  # channels that leave a stage
    block: str = "basic"  # basic | bottleneck: reduced to a quarter inside
    stem_width: int = 64
    stem: str = "pooled"  # pooled: 7x7/2, then max-pooling 3x3/2 | plain: 3x3
    shortcut: str = "projection"  # projection: 1x1 convolution | padding: no parameters
    channels: int | None = None  # of the image
    dtype: str = "float32"  # of products: float32 | bfloat16

    def __post_init__(self):
        check_dtype(self.dtype, "resnet")
        for name, value, choices in (
            ("block", self.block, BLOCKS),
            ("stem", self.stem, STEMS),
            ("shortcut", self.shortcut, SHORTCUTS),
        ):
            if value not in choices:
                raise UnknownName(value, f"{name} of resnet:", choices)
        if len(self.depths) != len(self.widths):
            raise ValueError(f"resnet depths {self.depths} and widths {self.widths} differ in length")
        steps = [b - a for a, b in zip((self.stem_width, *self.widths), self.widths)]
        if self.shortcut == "padding" and any(s < 0 or s % 2 for s in steps):
            raise ValueError(
                f"resnet widths {(self.stem_width, *self.widths)}: shortcuts by padding need an even "
                "growth of channels from stage to stage"
            )

    def fit(self, facts: Mapping[str, Any]) -> Self:
        """Takes the number of channels from the image view's facts.

        Raises ValueError where another number of channels was given.
        """
        channels = facts["channels"]
        if self.channels not in (None, channels):
            raise ValueError(f"resnet channels = {self.channels}, but the images have {channels}")
        return dataclasses.replace(self, channels=channels)

    def module(self, num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
        if self.channels is None:
            raise ValueError("resnet channels = None: fit the architecture to the images first")
        return Network(self, num_classes, rngs)


class ConvNorm(nnx.Module):
    """A convolution and its batch normalisation."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, dtype: str, rngs):
        self.conv = Conv(inputs, outputs, size, stride, dtype, rngs)
        self.norm = BatchNorm(outputs, dtype)

    def __call__(self, x: Float[Array, "B Y X K"], train: bool) -> Float[Array, "B V U F"]:
        return self.norm(self.conv(x), train)


class Block(nnx.Module):
    """Convolutions and a shortcut around them; conv1, conv2 (and conv3), the stride in the first 3x3."""

    def __init__(self, arch: ResNet, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs):
        self.stride, self.growth = stride, outputs - inputs
        self.names = [f"conv{j}" for j in range(1, len(BLOCKS[arch.block]) + 1)]
        if arch.shortcut == "projection" and (stride > 1 or self.growth):
            self.projection = ConvNorm(inputs, outputs, 1, stride, arch.dtype, rngs)
        for name, (size, divisor) in zip(self.names, BLOCKS[arch.block]):
            step = stride if size == 3 else 1
            stride = 1 if size == 3 else stride
            width = outputs // divisor
            setattr(self, name, ConvNorm(inputs, width, size, step, arch.dtype, rngs))
            inputs = width
        self.names = tuple(self.names)

    def __call__(self, x: Float[Array, "B Y X K"], train: bool) -> Float[Array, "B V U F"]:
        y = x
        for name in self.names[:-1]:
            y = jax.nn.relu(getattr(self, name)(y, train))
        y = getattr(self, self.names[-1])(y, train)
        return jax.nn.relu(y + self._shortcut(x, train))

    def _shortcut(self, x: Float[Array, "B Y X K"], train: bool) -> Float[Array, "B V U F"]:
        if hasattr(self, "projection"):
            return self.projection(x, train)
        x = x[:, :: self.stride, :: self.stride]
        return jnp.pad(x, ((0, 0),) * 3 + ((self.growth // 2,) * 2,))


class Stage(nnx.Module):
    """Blocks block1, block2, ... of one width."""

    def __init__(self, arch: ResNet, inputs: int, index: int, rngs: nnx.Rngs):
        width = arch.widths[index]
        self.depth = arch.depths[index]
        for i in range(self.depth):
            first = i == 0
            stride = 2 if first and index > 0 else 1
            block = Block(arch, inputs if first else width, width, stride, rngs)
            setattr(self, f"block{i + 1}", block)

    def __call__(self, x: Float[Array, "B Y X K"], tape: Tape, name: str, train: bool):
        for i in range(1, self.depth + 1):
            x = tape(f"{name}/block{i}/out", getattr(self, f"block{i}")(x, train))
        return x


class Network(nnx.Module):
    """Stem, stages stage1, stage2, ..., average pooling, head."""

    def __init__(self, arch: ResNet, num_classes: int, rngs: nnx.Rngs):
        self.pooled, self.depth = arch.stem == "pooled", len(arch.widths)
        size, stride = (7, 2) if self.pooled else (3, 1)
        self.stem = ConvNorm(arch.channels, arch.stem_width, size, stride, arch.dtype, rngs)
        inputs = arch.stem_width
        for s, width in enumerate(arch.widths):
            setattr(self, f"stage{s + 1}", Stage(arch, inputs, s, rngs))
            inputs = width
        init = nnx.initializers.normal(0.01)
        self.head = Dense(inputs, num_classes, kernel_init=init, rngs=rngs)

    def __call__(
        self, inputs: Mapping[str, Array], tape: Tape, *, train: bool, rngs: nnx.Rngs | None
    ) -> Outputs:
        x = tape("input", inputs["pixels"])
        x = jax.nn.relu(self.stem(x, train))
        if self.pooled:
            x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        x = tape("stem", x)
        for s in range(1, self.depth + 1):
            x = getattr(self, f"stage{s}")(x, tape, f"stage{s}", train)
        x = tape("features", jnp.mean(x.astype(jnp.float32), axis=(1, 2)))
        return Outputs(logits=self.head(x), features=x)
