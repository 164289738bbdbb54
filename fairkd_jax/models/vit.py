"""ViT, the vision transformer (arXiv 2010.11929), and DeiT's form of it (arXiv 2012.12877).

DeiT has a second token, for distillation, behind the class token. Where it has a head of its own,
the logits are the mean of both heads, in training too: the paper's training, in which each head has
a loss and a target of its own, is not offered.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from fairkd_jax.models import timm, vit_timm
from fairkd_jax.models.layers import Dense, attend, by_head, check_dtype, from_heads, readings
from fairkd_jax.models.net import Architecture, call_block
from fairkd_jax.models.positions import bicubic
from fairkd_jax.models.tape import Tape
from fairkd_jax.models.weights import check_variant
from fairkd_jax.models.wiring import Reader, Step, Writer, attention, perceptron
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Outputs

INIT = nnx.initializers.truncated_normal(0.02)
POOLINGS = ("cls", "mean")
BODY = {  # ours: as published by transformers, by timm
    "embed/cls": ("embeddings.cls_token", "cls_token"),
    "embed/distill": ("embeddings.distillation_token", "dist_token"),
    "embed/position": ("embeddings.position_embeddings", "pos_embed"),
    "embed/patch": ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    "norm": ("layernorm", "norm"),
}
BLOCK = {  # ours: in a file of transformers, in its memory, in timm
    "attn_norm": ("layernorm_before", "layernorm_before", "norm1"),
    "query": ("attention.attention.query", "attention.q_proj", "attn.qkv[0/3]"),
    "key": ("attention.attention.key", "attention.k_proj", "attn.qkv[1/3]"),
    "value": ("attention.attention.value", "attention.v_proj", "attn.qkv[2/3]"),
    "attn_out": ("attention.output.dense", "attention.o_proj", "attn.proj"),
    "mlp_norm": ("layernorm_after", "layernorm_after", "norm2"),
    "mlp_in": ("intermediate.dense", "mlp.fc1", "mlp.fc1"),
    "mlp_out": ("output.dense", "mlp.fc2", "mlp.fc2"),
}
FORMS = {  # distillation: tokens before the patches, the published class
    "none": (1, "ViTForImageClassification"),
    "token": (2, "DeiTForImageClassification"),
    "head": (2, "DeiTForImageClassificationWithTeacher"),
}


def _small(patch: int) -> dict[str, int]:
    return {"patch": patch, "depth": 9, "width": 192, "heads": 12, "mlp_width": 384}


@dataclasses.dataclass(frozen=True)
class ViT(Architecture):
    """Reads {"pixels": float32 [B, Y, X, K]}; features: what its head reads, normalised, float32.

    Taps: input, embed (what enters the first block), block00/attn_query, attn_key, attn_value,
    attn_scores, attn_probs, head_out, attn_out, mlp_out, out (the sum so far, not normalised),
    features ([B, 2 D] where two heads read a token
    each, else [B, D]).
    """

    view: ClassVar[str] = "image"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {"patch": 4, "depth": 2, "width": 64, "heads": 2},
        "mini": {"patch": 4, "depth": 6, "width": 128, "heads": 4},
        "small32": _small(4),  # for 32x32 and 64x64 pixels: arXiv 2112.13492
        "small64": _small(8),
        "ti16": {"depth": 12, "width": 192, "heads": 3},
        "s16": {"depth": 12, "width": 384, "heads": 6},
        "b16": {"depth": 12, "width": 768, "heads": 12},
        "l16": {"depth": 24, "width": 1024, "heads": 16},
    }
    free: ClassVar[frozenset[str]] = Architecture.free | {"image", "distillation"}
    head_reads: ClassVar[frozenset[str]] = frozenset({"pooling"})
    model_types: ClassVar[tuple[str, ...]] = ("vit", "deit")
    signature: ClassVar[str] = r"((vit|deit)\.)?embeddings\.cls_token|cls_token"

    depth: int = 12
    width: int = 192
    heads: int = 3
    mlp_width: int | None = None  # inside the block; None: 4 * width
    patch: int = 16  # pixels a side
    image: tuple[int, int] | None = None  # height, width: fit to the data, whatever was given
    channels: int | None = None  # of the image
    pooling: str = "cls"  # cls | mean: over the patches
    distillation: str = "none"  # none | token: DeiT's, which no head reads | head: one reads it
    qkv_bias: bool = True
    dropout: float = 0.1  # of embeddings, and of what blocks add
    attention_dropout: float = 0.0  # of attention probabilities
    drop_path: float = 0.0  # of what blocks add, whole: linear by depth, this at the last block
    epsilon: float = 1e-6  # of layer normalisation
    dtype: str = "float32"  # of products: float32 | bfloat16
    remat: bool = False  # compute the inside of each block anew for the gradient: saves memory

    def __post_init__(self):
        check_dtype(self.dtype, "vit")
        for name, choices in (("pooling", POOLINGS), ("distillation", FORMS)):
            if (value := getattr(self, name)) not in choices:
                raise UnknownName(value, f"{name} of vit:", choices)
        if self.pooling == "mean" and self.distillation != "none":
            raise ValueError(
                f"vit distillation = {self.distillation!r} with pooling = 'mean': only with 'cls'"
            )
        if self.width % self.heads:
            raise ValueError(f"vit width = {self.width} is no multiple of heads = {self.heads}")

    @property
    def lead(self) -> int:
        """Tokens before the patches."""
        return FORMS[self.distillation][0]

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across; ValueError where the image is not known."""
        if self.image is None or self.channels is None:
            raise ValueError(
                f"vit image = {self.image}, channels = {self.channels}: "
                "fit the architecture to the images first"
            )
        return self.image[0] // self.patch, self.image[1] // self.patch

    def fit(self, facts: Mapping[str, Any]) -> "ViT":
        """Takes the size of the image and its channels from the image view's facts.

        The size replaces that of a published config: `adapt` interpolates its positions. Raises
        ValueError where another number of channels was given, or patches do not tile the image.
        """
        height, width, channels = (facts[k] for k in ("height", "width", "channels"))
        if self.channels not in (None, channels):
            raise ValueError(f"vit channels = {self.channels}, but the images have {channels}")
        if height % self.patch or width % self.patch:
            common = math.gcd(height, width)
            choices = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
            raise ValueError(
                f"vit patch = {self.patch} does not divide images of {height} x {width} pixels; "
                f"choices: {choices}"
            )
        return dataclasses.replace(self, image=(height, width), channels=channels)

    def module(self, num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
        return Encoder(self, num_classes, rngs)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], keys: Iterable[str] = ()) -> "ViT":
        keys = {*keys}
        if timm.wrote(config):
            return cls(**vit_timm.options(config, keys, cls.presets))
        image, patch = (
            (n, n) if isinstance(n, int) else tuple(n)
            for n in (config.get("image_size", 224), config.get("patch_size", 16))
        )
        only = {"hidden_act": "gelu", "patch_size": patch[:1] * 2}
        check_variant(config | {"patch_size": patch}, only, "vit config")
        form = "none"
        distills = any(k.endswith("embeddings.distillation_token") for k in keys)
        if config.get("model_type", "deit" if distills else "vit") == "deit":
            names = keys or {*(config.get("architectures") or ())}
            two = {"distillation_classifier.weight", FORMS["head"][1]}
            form = "head" if names & two else "token"
        return cls(
            depth=config.get("num_hidden_layers", 12),
            width=config.get("hidden_size", 768),
            heads=config.get("num_attention_heads", 12),
            mlp_width=config.get("intermediate_size", 3072),
            patch=patch[0],
            image=image,
            channels=config.get("num_channels", 3),
            distillation=form,
            qkv_bias=config.get("qkv_bias", True),
            dropout=config.get("hidden_dropout_prob", 0.0),
            attention_dropout=config.get("attention_probs_dropout_prob", 0.0),
            epsilon=config.get("layer_norm_eps", 1e-12),
        )

    def to_config(self) -> dict[str, Any]:
        """As in the contract; ValueError for pooling = "mean", which transformers does not have."""
        if self.pooling == "mean":
            raise ValueError("vit pooling = 'mean' has no published form; only 'cls' has one")
        square = self.image is not None and self.image[0] == self.image[1]
        return {
            "architectures": [FORMS[self.distillation][1]],
            "model_type": "vit" if self.distillation == "none" else "deit",
            "hidden_act": "gelu",
            "num_hidden_layers": self.depth,
            "hidden_size": self.width,
            "num_attention_heads": self.heads,
            "intermediate_size": self.mlp_width or 4 * self.width,
            "patch_size": self.patch,
            "image_size": self.image[0] if square else self.image,
            "num_channels": self.channels,
            "qkv_bias": self.qkv_bias,
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.attention_dropout,
            "layer_norm_eps": self.epsilon,
        }

    @property
    def ignored_keys(self) -> str:
        # a pooler that no head reads, what pretraining by masking has
        return r"((vit|deit)\.)?(pooler\.dense\..*|embeddings\.mask_token)|decoder\..*"

    def published_names(self) -> tuple[dict[str, str], ...]:
        """In a file and in memory, each with the prefix of the body and without; timm's."""
        heads = ("classifier",), ("head",)
        ours = ("head",)
        if self.distillation == "head":
            heads = ("cls_classifier", "distillation_classifier"), ("head", "head_dist")
            ours = ("head/cls", "head/distill")
        prefix, tables = "vit." if self.distillation == "none" else "deit.", []
        for dialect, blocks in enumerate(("encoder.layer", "layers", "blocks")):
            writer = dialect // 2  # transformers, timm
            names = {k: v[writer] for k, v in BODY.items()}
            for i in range(self.depth):
                block = f"block{i:02}"
                names |= {f"{block}/{k}": f"{blocks}.{i}.{v[dialect]}" for k, v in BLOCK.items()}
            head = dict(zip(ours, heads[writer]))
            if not writer:
                tables.append({k: prefix + v for k, v in names.items()} | head)
            tables.append(names | head)
        return tuple(tables)

    def axes(self) -> dict[str, tuple[str, ...]]:
        names: dict[str, tuple[str, ...]] = {"embed/patch": ("", "", "", "width")}
        names |= {f"embed/{n}": ("", "", "width") for n in ("cls", "distill", "position")}
        names |= {n: ("width", "") for n in ("head", "head/cls", "head/distill")}
        names["norm"] = ("width",)
        for i in range(self.depth):
            block = f"block{i:02}"
            names |= {f"{block}/{n}": ("width", ".heads") for n in ("query", "key", "value")}
            names |= {f"{block}/{n}": ("width",) for n in ("attn_norm", "mlp_norm")}
            names[f"{block}/attn_out"] = (".heads", "width")
            names[f"{block}/mlp_in"] = ("width", ".inner")
            names[f"{block}/mlp_out"] = (".inner", "width")
        return names

    def wiring(self) -> tuple[Step, ...]:
        steps: list[Step] = [Writer("embed")]
        for block in (f"block{i:02}" for i in range(self.depth)):
            steps += [*attention(block, self.heads), *perceptron(block)]
        return (*steps, Reader("logits_in", ""))

    def parts(self) -> dict[str, int]:
        return {".heads": self.heads}

    def adapt(self, path: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        """Positions of the patches of a square image, interpolated to this one; tokens' kept."""
        if path != "embed/position" or array.shape[::2] != shape[::2]:
            return None
        lead, patches = np.split(array[0], [self.lead])
        side = math.isqrt(len(patches))
        if not side or side**2 != len(patches):
            return None
        down, across = (bicubic(side, n) for n in self.grid)
        patches = np.einsum("ys,xt,std->yxd", down, across, patches.reshape(side, side, -1))
        return np.concatenate([lead, patches.reshape(-1, shape[2])])[None].astype(array.dtype)


def _dense(arch: ViT, inputs: int, outputs: int, rngs: nnx.Rngs, bias: bool = True) -> Dense:
    dtype = jnp.dtype(arch.dtype)
    return Dense(inputs, outputs, use_bias=bias, kernel_init=INIT, dtype=dtype, rngs=rngs)


def _norm(arch: ViT, rngs: nnx.Rngs, dtype: str | None = None) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        arch.width,
        epsilon=arch.epsilon,
        dtype=jnp.dtype(dtype or arch.dtype),  # of the result: statistics are float32
        use_fast_variance=False,
        rngs=rngs,
    )


class Patches(nnx.Module):
    """A convolution with as large a stride as kernel [p, p, K, D], computed as a matrix product."""

    def __init__(self, arch: ViT, rngs: nnx.Rngs):
        shape = (arch.patch, arch.patch, arch.channels, arch.width)
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(arch.width))
        self.grid, self.dtype = arch.grid, arch.dtype

    def __call__(self, x: Float[Array, "B Y X K"]) -> Float[Array, "B P D"]:
        (down, across), (size, _, channels, width) = self.grid, self.kernel.shape
        x = x.astype(self.dtype).reshape(-1, down, size, across, size, channels)
        x = x.swapaxes(2, 3).reshape(-1, size * size * channels)
        y = x @ self.kernel[...].reshape(-1, width).astype(self.dtype)
        return (y + self.bias[...].astype(self.dtype)).reshape(-1, down * across, width)


class Embeddings(nnx.Module):
    """Class token, distillation token and patches, each with its position."""

    def __init__(self, arch: ViT, rngs: nnx.Rngs):
        down, across = arch.grid
        self.patch = Patches(arch, rngs)
        self.tokens = ("cls", "distill")[: arch.lead]
        for name in self.tokens:
            setattr(self, name, nnx.Param(INIT(rngs.params(), (1, 1, arch.width))))
        shape = (1, arch.lead + down * across, arch.width)
        self.position = nnx.Param(INIT(rngs.params(), shape))
        self.shape, self.dropout = (*arch.image, arch.channels), arch.dropout

    def __call__(self, inputs: Mapping[str, Array], tape: Tape) -> Float[Array, "B T D"]:
        pixels = tape("input", inputs["pixels"])
        if pixels.shape[1:] != self.shape:
            raise ValueError(f"images of shape {pixels.shape[1:]}, but vit is for {self.shape}")
        x = self.patch(pixels)
        lead = jnp.concatenate([getattr(self, name)[...] for name in self.tokens], axis=1)
        lead = jnp.broadcast_to(lead.astype(x.dtype), (len(x), *lead.shape[1:]))
        x = jnp.concatenate([lead, x], axis=1) + self.position[...].astype(x.dtype)
        return tape("embed", tape.drop(x, self.dropout))


class Block(nnx.Module):
    """Attention and a two-layer perceptron, each of its normalised input and added to it."""

    def __init__(self, arch: ViT, drop_path: float, rngs: nnx.Rngs):
        inner = arch.mlp_width or 4 * arch.width
        self.heads = arch.heads
        self.attn_norm = _norm(arch, rngs)
        for name in ("query", "key", "value"):
            setattr(self, name, _dense(arch, arch.width, arch.width, rngs, arch.qkv_bias))
        self.attn_out = _dense(arch, arch.width, arch.width, rngs)
        self.mlp_norm = _norm(arch, rngs)
        self.mlp_in = _dense(arch, arch.width, inner, rngs)
        self.mlp_out = _dense(arch, inner, arch.width, rngs)
        self.dropout, self.attention_dropout = arch.dropout, arch.attention_dropout
        self.drop_path = drop_path

    def __call__(self, x: Float[Array, "B T D"], tape: Tape, name: str) -> Float[Array, "B T D"]:
        seams = (f"{name}/{part}_in" for part in ("query", "key", "value"))
        seen = readings(self.attn_norm, x, tape, self.heads, *seams)
        parts = (self.query, self.key, self.value)
        query, key, value = (by_head(f, y, self.heads) for f, y in zip(parts, seen))
        y = attend(query, key, value, None, tape, f"{name}/attn", dropout=self.attention_dropout)
        y = tape(f"{name}/head_out", y)
        y = from_heads(self.attn_out, y, tape, f"{name}/head_writes")
        x = x + tape.drop(tape(f"{name}/attn_out", y), self.dropout, self.drop_path)
        y = self.mlp_norm(tape.seam(f"{name}/mlp_in", x))
        y = jax.nn.gelu(self.mlp_in(y), approximate=False)
        y = tape(f"{name}/mlp_out", self.mlp_out(y))
        return tape(f"{name}/out", x + tape.drop(y, self.dropout, self.drop_path))


class TwoHeads(nnx.Module):
    """The mean of a head on the class token and one on the distillation token."""

    def __init__(self, width: int, num_classes: int, rngs: nnx.Rngs):
        self.cls = Dense(width, num_classes, kernel_init=INIT, rngs=rngs)
        self.distill = Dense(width, num_classes, kernel_init=INIT, rngs=rngs)

    def __call__(self, x: Float[Array, "B E"]) -> Float[Array, "B C"]:
        first, second = jnp.split(x, 2, axis=1)
        return (self.cls(first) + self.distill(second)) / 2


class Encoder(nnx.Module):
    """Embeddings, blocks block00, block01, ..., normalisation, pooling, head."""

    def __init__(self, arch: ViT, num_classes: int, rngs: nnx.Rngs):
        self.depth, self.remat = arch.depth, arch.remat
        self.mean, self.lead = arch.pooling == "mean", arch.lead
        self.read = 2 if arch.distillation == "head" else 1  # tokens, unless it is the mean
        self.embed = Embeddings(arch, rngs)
        for i in range(arch.depth):
            setattr(self, f"block{i:02}", Block(arch, arch.drop_path * (i + 1) / arch.depth, rngs))
        self.norm = _norm(arch, rngs, "float32")
        if arch.distillation == "head":
            self.head = TwoHeads(arch.width, num_classes, rngs)
        else:
            self.head = Dense(arch.width, num_classes, kernel_init=INIT, rngs=rngs)

    def __call__(self, inputs: Mapping[str, Array], tape: Tape) -> Outputs:
        x = self.embed(inputs, tape)
        for i in range(self.depth):
            name = f"block{i:02}"
            x = call_block(getattr(self, name), tape, name, x, remat=self.remat)
        x = tape.seam("logits_in", x)
        x = self.norm(x[:, self.lead :] if self.mean else x[:, : self.read])
        x = jnp.mean(x, axis=1) if self.mean else x.reshape(len(x), -1)
        x = tape("features", x)
        return Outputs(logits=self.head(x), features=x)
