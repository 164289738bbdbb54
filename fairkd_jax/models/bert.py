"""BERT, the bidirectional transformer encoder (arXiv 1810.04805), with a head on its pooled output.

Sizes from arXiv 1908.08962 (tiny to medium) and of the MiniLM family (arXiv 2002.10957).
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from fairkd_jax.models.layers import Dense, attend, check_dtype
from fairkd_jax.models.net import Architecture, call_block
from fairkd_jax.models.tape import Tape
from fairkd_jax.models.weights import check_variant
from fairkd_jax.types import Outputs

INIT = nnx.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class Bert(Architecture):
    """Reads int32 [B, T] {"tokens", "mask" (1 = real), "segments"}; features: the pooled output.

    Taps: input (sum of the embeddings), embed (after the normalisation), block00/attn_query,
    attn_key, attn_value, attn_scores, attn_probs, head_out, attn_out, mlp_out, out (after the
    second normalisation), features.

    Attention is fused unless `attention_dropout` > 0 in training (the published training has 0.1).
    """

    view: ClassVar[str] = "wordpiece"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {"depth": 2, "width": 128, "heads": 2},
        "mini": {"depth": 4, "width": 256, "heads": 4},
        "small": {"depth": 4, "width": 512, "heads": 8},
        "medium": {"depth": 8, "width": 512, "heads": 8},
        "base": {"depth": 12, "width": 768, "heads": 12},
        "large": {"depth": 24, "width": 1024, "heads": 16},
        "minilm_l3": {"depth": 3, "width": 384, "heads": 12},
        "minilm_l6": {"depth": 6, "width": 384, "heads": 12},
    }
    model_types: ClassVar[tuple[str, ...]] = ("bert",)
    signature: ClassVar[str] = r"(bert\.)?encoder\.layer\.0\.attention\.self\.query\.weight"
    before_head: ClassVar[tuple[str, ...]] = ("pooler",)

    no_edges: ClassVar[str] = (
        "its blocks are post-LN: each sum is normalised before the next block reads it, so no"
        " reader sees what one head or perceptron added"
    )

    depth: int = 2
    width: int = 128
    heads: int = 2
    mlp_width: int | None = None  # inside the block; None: 4 * width
    vocab_size: int | None = None  # None: as large as the data's
    positions: int = 512
    types: int = 2  # of segments
    dropout: float = 0.1  # of embeddings, of what blocks add, and before the head
    attention_dropout: float = 0.1  # of attention probabilities
    drop_path: float = 0.0  # of what blocks add, whole: linear by depth, this at the last block
    epsilon: float = 1e-12  # of layer normalisation
    dtype: str = "float32"  # of products: float32 | bfloat16
    remat: bool = False  # compute the inside of each block anew for the gradient: saves memory

    def __post_init__(self):
        check_dtype(self.dtype, "bert")
        if self.width % self.heads:
            raise ValueError(f"bert width = {self.width} is no multiple of heads = {self.heads}")

    def fit(self, facts: Mapping[str, Any]) -> "Bert":
        """Takes the vocabulary's size from the text view's facts, where none was given.

        Raises ValueError where the data have longer texts than the net has positions.
        """
        words, length = facts["vocab_size"], facts["length"]
        if length > self.positions:
            raise ValueError(
                f"bert positions = {self.positions}, but the data have {length} tokens"
            )
        return dataclasses.replace(self, vocab_size=self.vocab_size or words)

    def module(self, num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
        if self.vocab_size is None:
            raise ValueError("bert vocab_size = None: fit the architecture to the data first")
        return Encoder(self, num_classes, rngs)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], keys: Iterable[str] = ()) -> "Bert":
        only = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
        check_variant(config, only, "bert config")
        return cls(
            depth=config.get("num_hidden_layers", 12),
            width=config.get("hidden_size", 768),
            heads=config.get("num_attention_heads", 12),
            mlp_width=config.get("intermediate_size", 3072),
            vocab_size=config.get("vocab_size", 30522),
            positions=config.get("max_position_embeddings", 512),
            types=config.get("type_vocab_size", 2),
            dropout=config.get("hidden_dropout_prob", 0.1),
            attention_dropout=config.get("attention_probs_dropout_prob", 0.1),
            epsilon=config.get("layer_norm_eps", 1e-12),
        )

    def to_config(self) -> dict[str, Any]:
        return {
            "architectures": ["BertForSequenceClassification"],
            "model_type": "bert",
            "hidden_act": "gelu",
            "num_hidden_layers": self.depth,
            "hidden_size": self.width,
            "num_attention_heads": self.heads,
            "intermediate_size": self.mlp_width or 4 * self.width,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.positions,
            "type_vocab_size": self.types,
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.attention_dropout,
            "layer_norm_eps": self.epsilon,
        }

    @property
    def ignored_keys(self) -> str:
        return r"(bert\.)?embeddings\.position_ids|cls\..*"  # a buffer, heads of pretraining

    def published_names(self) -> tuple[dict[str, str], ...]:
        body = {
            "embed/word": "embeddings.word_embeddings",
            "embed/position": "embeddings.position_embeddings",
            "embed/segment": "embeddings.token_type_embeddings",
            "embed/norm": "embeddings.LayerNorm",
            "pooler": "pooler.dense",
        }
        for i in range(self.depth):
            ours, theirs = f"block{i:02}", f"encoder.layer.{i}"
            body |= {
                f"{ours}/query": f"{theirs}.attention.self.query",
                f"{ours}/key": f"{theirs}.attention.self.key",
                f"{ours}/value": f"{theirs}.attention.self.value",
                f"{ours}/attn_out": f"{theirs}.attention.output.dense",
                f"{ours}/attn_norm": f"{theirs}.attention.output.LayerNorm",
                f"{ours}/mlp_in": f"{theirs}.intermediate.dense",
                f"{ours}/mlp_out": f"{theirs}.output.dense",
                f"{ours}/mlp_norm": f"{theirs}.output.LayerNorm",
            }
        head = {"head": "classifier"}
        return {k: f"bert.{v}" for k, v in body.items()} | head, body | head

    def rows(self) -> dict[str, int]:
        return {"tokens": self.vocab_size, "segments": self.types}

    def axes(self) -> dict[str, tuple[str, ...]]:
        names = {
            "embed/word": ("", "width"),
            "embed/position": ("#positions", "width"),
            "embed/segment": ("", "width"),
            "embed/norm": ("width",),
            "pooler": ("width", "pooled"),
            "head": ("pooled", ""),
        }
        for i in range(self.depth):
            block = f"block{i:02}"
            names |= {
                f"{block}/query": ("width", ".heads"),
                f"{block}/key": ("width", ".heads"),
                f"{block}/value": ("width", ".heads"),
                f"{block}/attn_out": (".heads", "width"),
                f"{block}/attn_norm": ("width",),
                f"{block}/mlp_in": ("width", ".inner"),
                f"{block}/mlp_out": (".inner", "width"),
                f"{block}/mlp_norm": ("width",),
            }
        return names

    def parts(self) -> dict[str, int]:
        return {".heads": self.heads}


def _dense(arch: Bert, inputs: int, outputs: int, rngs: nnx.Rngs) -> Dense:
    return Dense(inputs, outputs, kernel_init=INIT, dtype=jnp.dtype(arch.dtype), rngs=rngs)


def _norm(arch: Bert, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        arch.width,
        epsilon=arch.epsilon,
        dtype=jnp.dtype(arch.dtype),  # of the result: statistics are float32
        use_fast_variance=False,
        rngs=rngs,
    )


class Embeddings(nnx.Module):
    """Sum of word, position and segment embeddings, normalised."""

    def __init__(self, arch: Bert, rngs: nnx.Rngs):
        rows = {"word": arch.vocab_size, "position": arch.positions, "segment": arch.types}
        for name, count in rows.items():
            setattr(self, name, nnx.Embed(count, arch.width, embedding_init=INIT, rngs=rngs))
        self.norm = _norm(arch, rngs)
        self.dropout = arch.dropout

    def __call__(self, inputs: Mapping[str, Array], tape: Tape) -> Float[Array, "B T D"]:
        length, positions = inputs["tokens"].shape[1], self.position.num_embeddings
        if length > positions:
            raise ValueError(f"{length} tokens, but bert has positions = {positions}")
        x = self.word(inputs["tokens"]) + self.segment(inputs["segments"])
        x = tape("input", x + self.position.embedding[...][:length])
        return tape("embed", tape.drop(self.norm(x), self.dropout))


class Block(nnx.Module):
    """Attention and a two-layer perceptron, each added to its input and then normalised."""

    def __init__(self, arch: Bert, drop_path: float, rngs: nnx.Rngs):
        inner = arch.mlp_width or 4 * arch.width
        self.heads = arch.heads
        for name in ("query", "key", "value", "attn_out"):
            setattr(self, name, _dense(arch, arch.width, arch.width, rngs))
        self.attn_norm = _norm(arch, rngs)
        self.mlp_in = _dense(arch, arch.width, inner, rngs)
        self.mlp_out = _dense(arch, inner, arch.width, rngs)
        self.mlp_norm = _norm(arch, rngs)
        self.dropout, self.attention_dropout = arch.dropout, arch.attention_dropout
        self.drop_path = drop_path

    def __call__(
        self, x: Float[Array, "B T D"], mask: Bool[Array, "B 1 1 T"], tape: Tape, name: str
    ) -> Float[Array, "B T D"]:
        heads = (*x.shape[:2], self.heads, x.shape[2] // self.heads)
        query, key, value = (f(x).reshape(heads) for f in (self.query, self.key, self.value))
        y = attend(query, key, value, mask, tape, f"{name}/attn", dropout=self.attention_dropout)
        y = tape(f"{name}/head_out", y)
        y = tape(f"{name}/attn_out", self.attn_out(y.reshape(x.shape)))
        x = self.attn_norm(x + tape.drop(y, self.dropout, self.drop_path))
        y = jax.nn.gelu(self.mlp_in(x), approximate=False)
        y = tape(f"{name}/mlp_out", self.mlp_out(y))
        x = self.mlp_norm(x + tape.drop(y, self.dropout, self.drop_path))
        return tape(f"{name}/out", x)


class Encoder(nnx.Module):
    """Embeddings, blocks block00, block01, ..., pooler on the first token, head."""

    def __init__(self, arch: Bert, num_classes: int, rngs: nnx.Rngs):
        self.depth, self.dropout, self.remat = arch.depth, arch.dropout, arch.remat
        self.embed = Embeddings(arch, rngs)
        for i in range(arch.depth):
            setattr(self, f"block{i:02}", Block(arch, arch.drop_path * (i + 1) / arch.depth, rngs))
        self.pooler = _dense(arch, arch.width, arch.width, rngs)
        self.head = Dense(arch.width, num_classes, kernel_init=INIT, rngs=rngs)

    def __call__(self, inputs: Mapping[str, Array], tape: Tape) -> Outputs:
        mask = (inputs["mask"] != 0)[:, None, None, :]
        x = self.embed(inputs, tape)
        for i in range(self.depth):
            name = f"block{i:02}"
            x = call_block(getattr(self, name), tape, name, x, mask, remat=self.remat)
        pooled = jnp.tanh(self.pooler(x[:, 0]).astype(jnp.float32))
        features = tape("features", pooled)
        return Outputs(logits=self.head(tape.drop(features, self.dropout)), features=features)
