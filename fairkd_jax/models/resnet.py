"""Residual networks for images (arXiv 1512.03385): the ImageNet form, and that for CIFAR.

In the ImageNet form a bottleneck has its stride in the 3x3 convolution ("v1.5"). The CIFAR form has
a 3x3 stem without pooling, and shortcuts without parameters (section 4.2, option A): every second
pixel, and zeros for the channels that are not there. Group normalisation (arXiv 1803.08494) in the
place of batch normalisation is an option: examples then do not depend on the rest of their batch.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fairkd_jax.models import timm
from fairkd_jax.models.layers import BatchNorm, Conv, Dense, GroupNorm, check_dtype, max_pool
from fairkd_jax.models.net import Architecture, call_block
from fairkd_jax.models.tape import Tape
from fairkd_jax.models.weights import check_variant
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Outputs

BLOCKS = {  # convolutions of a block: size, divisor of its width, has the block's stride
    "basic": ((3, 1, True), (3, 1, False)),
    "bottleneck": ((1, 4, False), (3, 4, True), (1, 1, False)),
}
STEMS = ("pooled", "plain")
SHORTCUTS = ("projection", "padding")
PUBLISHED = {"stem": "pooled", "shortcut": "projection", "norm": "batch"}  # by transformers
TIMM_ARGUMENTS = {"in_chans": "channels", "layers": "depths"}
TIMM_ONLY = {"output_stride": 32, "global_pool": "avg", "act_layer": "relu", "stem_type": ""}
TIMM_ONLY |= {"cardinality": 1, "base_width": 64, "stem_width": 64, "avg_down": False}
TIMM_ONLY |= {"block_reduce_first": 1, "down_kernel_size": 1, "replace_stem_pool": False}
NORMS = {"batch": BatchNorm, "group": GroupNorm}


def _imagenet(depths: tuple[int, ...], block: str) -> dict[str, Any]:
    widths = (64, 128, 256, 512) if block == "basic" else (256, 512, 1024, 2048)
    return {"depths": depths, "widths": widths, "block": block}


def _cifar(depths: tuple[int, ...], widths: tuple[int, ...]) -> dict[str, Any]:
    form = {"stem_width": widths[0], "stem": "plain", "shortcut": "padding"}
    return {"depths": depths, "widths": widths} | form


@dataclasses.dataclass(frozen=True)
class ResNet(Architecture):
    """Reads {"pixels": float32 [B, Y, X, K]}; its features are the average over the last map.

    Taps: input, stem (what enters the first block), stage1/block1/branch_out (before it is added to
    the shortcut), out ..., features.
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
    model_types: ClassVar[tuple[str, ...]] = ("resnet",)
    signature: ClassVar[str] = (
        r"(resnet\.)?embedder\.embedder\.convolution\.weight|layer1\.0\.conv1\.weight"
    )

    no_edges: ClassVar[str] = (
        "each sum of branch and shortcut passes a ReLU before the next block reads it, so no reader"
        " sees what one branch added"
    )

    depths: tuple[int, ...] = (2, 2, 2, 2)  # blocks by stage; all but the first halve the map
    widths: tuple[int, ...] = (64, 128, 256, 512)  # channels that leave a stage
    block: str = "basic"  # basic | bottleneck: reduced to a quarter inside
    stem_width: int = 64
    stem: str = "pooled"  # pooled: 7x7/2, then max-pooling 3x3/2 | plain: 3x3
    shortcut: str = "projection"  # projection: 1x1 convolution | padding: no parameters
    norm: str = "batch"  # batch | group: without running statistics
    first_stride: int = 1  # of the first stage: 1 | 2
    early_stride: bool = False  # of a bottleneck: in its first convolution, "v1" of the paper
    channels: int | None = None  # of the image
    drop_path: float = 0.0  # of what blocks add, whole: linear by depth, this at the last block
    dtype: str = "float32"  # of products: float32 | bfloat16
    remat: bool = False  # compute the inside of each block anew for the gradient: saves memory

    def __post_init__(self):
        check_dtype(self.dtype, "resnet")
        for name, value, choices in (
            ("block", self.block, BLOCKS),
            ("stem", self.stem, STEMS),
            ("shortcut", self.shortcut, SHORTCUTS),
            ("norm", self.norm, NORMS),
            ("first_stride", self.first_stride, (1, 2)),
        ):
            if value not in choices:
                raise UnknownName(value, f"{name} of resnet:", choices)
        if len(self.depths) != len(self.widths):
            raise ValueError(
                f"resnet depths {self.depths} and widths {self.widths} differ in length"
            )
        widths = (self.stem_width, *self.widths)
        steps = [b - a for a, b in zip(widths, self.widths)]
        if self.shortcut == "padding" and any(s < 0 or s % 2 for s in steps):
            raise ValueError(
                f"resnet stem_width, widths = {widths}: shortcuts by padding "
                "need channels to grow by an even number, or not at all, from stage to stage"
            )

    def fit(self, facts: Mapping[str, Any]) -> "ResNet":
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

    @classmethod
    def from_config(cls, config: Mapping[str, Any], keys: Iterable[str] = ()) -> "ResNet":
        if timm.wrote(config):
            name, options = timm.read(config, TIMM_ARGUMENTS, TIMM_ONLY)
            presets = {f"resnet{preset}": preset for preset in cls.presets if preset.isdigit()}
            if name not in presets:
                raise UnknownName(name, "architecture in timm config:", presets)
            return cls(**cls.presets[presets[name]] | options)
        check_variant(config, {"hidden_act": "relu"}, "resnet config")
        return cls(
            depths=tuple(config.get("depths", (3, 4, 6, 3))),
            widths=tuple(config.get("hidden_sizes", (256, 512, 1024, 2048))),
            block=config.get("layer_type", "bottleneck"),
            stem_width=config.get("embedding_size", 64),
            channels=config.get("num_channels", 3),
            first_stride=2 if config.get("downsample_in_first_stage") else 1,
            early_stride=bool(config.get("downsample_in_bottleneck")),
        )

    def to_config(self) -> dict[str, Any]:
        """As in the contract; ValueError for the CIFAR form and for group normalisation.

        `transformers` has neither.
        """
        for name, known in PUBLISHED.items():
            if (value := getattr(self, name)) != known:
                usual = [n for n, p in self.presets.items() if PUBLISHED | p == p | PUBLISHED]
                raise ValueError(
                    f"resnet {name} = {value!r}: transformers has no such net, only {known!r}. Of "
                    f"resnets, the presets {', '.join(usual)} with batch normalisation can be "
                    "exported"
                )
        return {
            "architectures": ["ResNetForImageClassification"],
            "model_type": "resnet",
            "hidden_act": "relu",
            "downsample_in_first_stage": self.first_stride == 2,
            "downsample_in_bottleneck": self.early_stride,
            "depths": list(self.depths),
            "hidden_sizes": list(self.widths),
            "layer_type": self.block,
            "embedding_size": self.stem_width,
            "num_channels": self.channels,
        }

    @property
    def ignored_keys(self) -> str:
        return r".*\.num_batches_tracked"

    def published_names(self) -> tuple[dict[str, str], ...]:
        """transformers' names, with a prefix or not, and torchvision's, of two heads.

        Only torchvision's where the normalisation is by groups: they say nothing of its kind.
        """
        hugging_face = {
            "stem/conv": "embedder.embedder.convolution",
            "stem/norm": "embedder.embedder.normalization",
        }
        torchvision = {"stem/conv": "conv1", "stem/norm": "bn1"}
        for s, depth in enumerate(self.depths):
            for b in range(depth):
                ours = f"stage{s + 1}/block{b + 1}"
                theirs = f"encoder.stages.{s}.layers.{b}"
                hugging_face[f"{ours}/projection/conv"] = f"{theirs}.shortcut.convolution"
                hugging_face[f"{ours}/projection/norm"] = f"{theirs}.shortcut.normalization"
                torchvision[f"{ours}/projection/conv"] = f"layer{s + 1}.{b}.downsample.0"
                torchvision[f"{ours}/projection/norm"] = f"layer{s + 1}.{b}.downsample.1"
                for j in range(len(BLOCKS[self.block])):
                    conv = f"{ours}/conv{j + 1}"
                    hugging_face[f"{conv}/conv"] = f"{theirs}.layer.{j}.convolution"
                    hugging_face[f"{conv}/norm"] = f"{theirs}.layer.{j}.normalization"
                    torchvision[f"{conv}/conv"] = f"layer{s + 1}.{b}.conv{j + 1}"
                    torchvision[f"{conv}/norm"] = f"layer{s + 1}.{b}.bn{j + 1}"
        tables = (
            {k: f"resnet.{v}" for k, v in hugging_face.items()} | {"head": "classifier.1"},
            hugging_face | {"head": "classifier.1"},
            torchvision | {"head": "fc"},
            torchvision | {"head": "linear"},  # CIFAR nets of akamaster/pytorch_resnet_cifar10
        )
        return tables if self.norm == "batch" else tables[2:]

    def axes(self) -> dict[str, tuple[str, ...]]:
        """Channels that blocks add to are one axis for as long as nothing but sums passes them on.

        Padding shortcuts move channels to the middle of the wider map. Cut maps are padded by less,
        so what a stage adds to is then not what its teacher's counterpart added to.
        """
        stream, names = "stem", {"stem/conv": ("", "", "", "stem"), "stem/norm": ("stem",)}
        for s, depth in enumerate(self.depths):
            inputs, width = (self.stem_width, *self.widths)[s : s + 2]
            same = width == inputs and (
                (s == 0 and self.first_stride == 1) or self.shortcut == "padding"
            )
            last = stream if same else f"stage{s + 1}"
            for b in range(depth):
                block = f"stage{s + 1}/block{b + 1}"
                names[f"{block}/projection/conv"] = ("", "", stream, last)
                names[f"{block}/projection/norm"] = (last,)
                inside = [f".conv{j + 1}" for j in range(len(BLOCKS[self.block]) - 1)]
                ends = [stream, *inside, last]
                for j, (before, after) in enumerate(itertools.pairwise(ends)):
                    names[f"{block}/conv{j + 1}/conv"] = ("", "", before, after)
                    names[f"{block}/conv{j + 1}/norm"] = (after,)
                stream = last
        return names | {"head": (stream, "")}


class ConvNorm(nnx.Module):
    """A convolution and its normalisation."""

    def __init__(
        self, arch: ResNet, inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs
    ):
        self.conv = Conv(inputs, outputs, size, stride, arch.dtype, rngs)
        self.norm = NORMS[arch.norm](outputs, arch.dtype)

    def __call__(self, x: Float[Array, "B Y X K"], tape: Tape) -> Float[Array, "B V U F"]:
        return self.norm(self.conv(x), tape)


class Block(nnx.Module):
    """Convolutions conv1, conv2, ... and a shortcut around them."""

    def __init__(
        self, arch: ResNet, inputs: int, outputs: int, stride: int, drop_path: float, rngs: nnx.Rngs
    ):
        self.stride, self.growth = stride, outputs - inputs
        self.last, self.drop_path = len(BLOCKS[arch.block]), drop_path
        if arch.shortcut == "projection" and (stride > 1 or self.growth):
            self.projection = ConvNorm(arch, inputs, outputs, 1, stride, rngs)
        for j, (size, divisor, strided) in enumerate(BLOCKS[arch.block], start=1):
            if arch.block == "bottleneck" and arch.early_stride:
                strided = j == 1
            width, step = outputs // divisor, stride if strided else 1
            setattr(self, f"conv{j}", ConvNorm(arch, inputs, width, size, step, rngs))
            inputs = width

    def __call__(
        self, x: Float[Array, "B Y X K"], tape: Tape, name: str
    ) -> Float[Array, "B V U F"]:
        y = x
        for j in range(1, self.last):
            y = jax.nn.relu(getattr(self, f"conv{j}")(y, tape))
        y = tape(f"{name}/branch_out", getattr(self, f"conv{self.last}")(y, tape))
        y = tape.drop_path(y, self.drop_path)
        return tape(f"{name}/out", jax.nn.relu(y + self._shortcut(x, tape)))

    def _shortcut(self, x: Float[Array, "B Y X K"], tape: Tape) -> Float[Array, "B V U F"]:
        if hasattr(self, "projection"):
            return self.projection(x, tape)
        x = x[:, :: self.stride, :: self.stride]
        return jnp.pad(x, ((0, 0),) * 3 + ((self.growth // 2,) * 2,))


class Stage(nnx.Module):
    """Blocks block1, block2, ... of one width; the first may halve the map."""

    def __init__(self, arch: ResNet, index: int, rngs: nnx.Rngs):
        inputs, width = (arch.stem_width, *arch.widths)[index : index + 2]
        stride = arch.first_stride if index == 0 else 2
        self.depth, self.remat = arch.depths[index], arch.remat
        for i in range(1, self.depth + 1):
            rate = arch.drop_path * (sum(arch.depths[:index]) + i) / sum(arch.depths)
            setattr(self, f"block{i}", Block(arch, inputs, width, stride, rate, rngs))
            inputs, stride = width, 1

    def __call__(
        self, x: Float[Array, "B Y X K"], tape: Tape, name: str
    ) -> Float[Array, "B V U F"]:
        for i in range(1, self.depth + 1):
            block = getattr(self, f"block{i}")
            x = call_block(block, tape, f"{name}/block{i}", x, remat=self.remat)
        return x


class Network(nnx.Module):
    """Stem, stages stage1, stage2, ..., average pooling, head."""

    def __init__(self, arch: ResNet, num_classes: int, rngs: nnx.Rngs):
        self.pooled, self.depth = arch.stem == "pooled", len(arch.widths)
        size, stride = (7, 2) if self.pooled else (3, 1)
        self.stem = ConvNorm(arch, arch.channels, arch.stem_width, size, stride, rngs)
        for s in range(self.depth):
            setattr(self, f"stage{s + 1}", Stage(arch, s, rngs))
        init = nnx.initializers.normal(0.01)  # arXiv 1706.02677, section 5.1
        self.head = Dense(arch.widths[-1], num_classes, kernel_init=init, rngs=rngs)

    def __call__(self, inputs: Mapping[str, Array], tape: Tape) -> Outputs:
        x = tape("input", inputs["pixels"])
        x = jax.nn.relu(self.stem(x, tape))
        if self.pooled:
            x = max_pool(x, 3, 2)
        x = tape("stem", x)
        for s in range(1, self.depth + 1):
            x = getattr(self, f"stage{s}")(x, tape, f"stage{s}")
        x = tape("features", jnp.mean(x.astype(jnp.float32), axis=(1, 2)))
        return Outputs(logits=self.head(x), features=x)
