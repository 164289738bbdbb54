"""T5, the text-to-text transformer (arXiv 1910.10683), as a classifier in three ways.

Version 1.0 and version 1.1 (gated GELU, arXiv 2002.05202; a head for words of its own). Parameters
start as in Mesh TensorFlow's and transformers' T5: normal, of standard deviation 1 / sqrt(inputs);
queries also / sqrt(H), since attention does not scale its scores; 1 for the words.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from fairkd_jax.models.layers import Dense, check_dtype
from fairkd_jax.models.net import Architecture
from fairkd_jax.models.positions import Text, prefix_tree, whole
from fairkd_jax.models.t5_stack import Memory, Stack, initial
from fairkd_jax.models.tape import Tape
from fairkd_jax.models.wiring import Reader, Step, Writer, attention, perceptron
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Outputs

START, END = 0, 1  # tokens: what the decoder begins with, </s>
FIXED = {"decoder_start_token_id": START, "pad_token_id": START, "eos_token_id": END}
PERCEPTRONS = {"relu": (False, "relu"), "gated-gelu": (True, "gelu_new")}  # gated?, by what
OPTIONS = {  # ours -> published; our defaults are those of old configs, which are silent
    "depth": "num_layers",
    "decoder_depth": "num_decoder_layers",
    "width": "d_model",
    "heads": "num_heads",
    "head_width": "d_kv",
    "mlp_width": "d_ff",
    "buckets": "relative_attention_num_buckets",
    "max_distance": "relative_attention_max_distance",
    "vocab_size": "vocab_size",
    "dropout": "dropout_rate",
    "epsilon": "layer_norm_epsilon",
}
V11 = {"gated": True, "tied": False, "scale_outputs": False}
Published = Mapping[str, tuple[str, tuple[str, ...]]]  # our path -> name of a module, its axes


def _sizes(depth: int, width: int, heads: int, mlp_width: int, **more: Any) -> dict[str, Any]:
    return {"depth": depth, "width": width, "heads": heads, "mlp_width": mlp_width} | more


@dataclasses.dataclass(frozen=True)
class T5(Architecture):
    """Reads int32 [B, T] {"tokens", "mask" (1 = real)} and answers by its `readout`.

    first_step  A head on the decoder's state after the start token; features: that state.
    sequence    As T5ForSequenceClassification: the decoder reads the input once more, a head with
                a hidden layer its state before the last </s> (the first one, where there is none).
    verbalizer  logits[b, c]: log-likelihood of the words of class c, which softmax normalises over
                classes. Features: what the words' head reads at the first step.

    Taps: input (embeddings of words), enc/embed, enc/block00/attn_query, attn_key, attn_value,
    attn_scores, attn_probs, head_out, attn_out, mlp_out, out, ..., enc/out (normalised); dec/
    likewise, with cross_query, cross_key, cross_value, cross_scores, cross_probs, cross_head_out,
    cross_out behind attn_out; features; verbalizer: lm_logits [B, P, V].
    """

    view: ClassVar[str] = "unigram"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": _sizes(2, 64, 2, 128, head_width=32, decoder_depth=1),
        "mini": _sizes(4, 256, 4, 1024),
        "small": _sizes(6, 512, 8, 2048),
        "base": _sizes(12, 768, 12, 3072),
        "large": _sizes(24, 1024, 16, 4096),
        "small_v11": _sizes(8, 512, 6, 1024, **V11),
        "base_v11": _sizes(12, 768, 12, 2048, **V11),
        "large_v11": _sizes(24, 1024, 16, 2816, **V11),
    }
    free: ClassVar[frozenset[str]] = Architecture.free | {"readout", "label_tokens"}
    model_types: ClassVar[tuple[str, ...]] = ("t5",)
    signature: ClassVar[str] = r"(transformer\.)?encoder\.block\.0\.layer\.0\.SelfAttention\..*"

    depth: int = 6  # blocks of the encoder
    decoder_depth: int | None = None  # None: as many
    width: int = 512
    heads: int = 8
    head_width: int = 64
    mlp_width: int = 2048  # inside the block
    gated: bool = False  # version 1.1: tanh-GELU as a gate, instead of ReLU
    buckets: int = 32  # of relative positions
    max_distance: int = 128  # positions further away share a bucket
    vocab_size: int | None = None  # None: as large as the data's
    tied: bool = True  # the words' head is their embedding
    scale_outputs: bool = True  # version 1.0: what the words' head reads, by 1 / sqrt(width)
    readout: str = "first_step"  # first_step | sequence | verbalizer
    label_tokens: tuple[tuple[int, ...], ...] = ()  # words of each class; (): the data's
    dropout: float = 0.1  # of embeddings, what blocks add, inside the perceptron, of last states
    attention_dropout: float | None = None  # of attention probabilities; None: as dropout
    drop_path: float = 0.0  # of what blocks add, whole: linear by depth, this at the last block
    epsilon: float = 1e-6  # of normalisation
    dtype: str = "float32"  # of products: float32 | bfloat16
    remat: bool = False  # compute the inside of each block anew for the gradient: saves memory

    def __post_init__(self):
        check_dtype(self.dtype, "t5")
        if self.readout not in READOUTS:
            raise UnknownName(self.readout, "readout of t5:", READOUTS)

    def fit(self, facts: Mapping[str, Any]) -> "T5":
        """Takes the view's vocabulary size and, to verbalize, words, where none were given."""
        words, labels = self.vocab_size or facts["vocab_size"], self.label_tokens
        if self.readout == "verbalizer" and not labels:
            labels = tuple(tuple(tokens) for tokens in facts.get("label_tokens", ()))
        return dataclasses.replace(self, vocab_size=words, label_tokens=labels)

    def module(self, num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
        if self.vocab_size is None:
            raise ValueError("t5 vocab_size = None: fit the architecture to the data first")
        return READOUTS[self.readout](self, num_classes, rngs)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], keys: Iterable[str] = ()) -> "T5":
        usual = "gated-gelu" if config.get("is_gated_act") else "relu"
        form = config.get("feed_forward_proj", usual)
        if form not in PERCEPTRONS:
            raise UnknownName(str(form), "feed_forward_proj in t5 config:", PERCEPTRONS)
        gated, activation = PERCEPTRONS[form]
        known = FIXED | {"is_gated_act": gated, "dense_act_fn": activation}
        config = {"vocab_size": 32128} | dict(config)  # transformers' default
        if other := {k: config[k] for k, v in known.items() if config.get(k, v) != v}:
            raise ValueError(f"t5 config has {other}, but only {known} is there")
        keys, tied = {*keys}, config.get("tie_word_embeddings", True)
        classes = " ".join(config.get("architectures") or ())
        classes = classes.replace("WithLMHeadModel", "ForConditionalGeneration").split()
        readouts = [name for name, r in READOUTS.items() if r.published in classes]
        return cls(
            **{ours: config[theirs] for ours, theirs in OPTIONS.items() if theirs in config},
            gated=gated,
            # Some versions of transformers always write that it is tied; the weights know better.
            tied=tied and not {"lm_head.weight", "shared.weight"} <= keys,
            scale_outputs=config.get("scale_decoder_outputs", tied),
            readout=[*readouts, "first_step"][0],
        )

    def to_config(self) -> dict[str, Any]:
        options = {theirs: getattr(self, ours) for ours, theirs in OPTIONS.items()}
        return {
            **FIXED,
            **options,
            "architectures": [READOUTS[self.readout].published],
            "model_type": "t5",
            "is_encoder_decoder": True,
            "num_decoder_layers": self.decoder_depth or self.depth,
            "feed_forward_proj": "gated-gelu" if self.gated else "relu",
            "tie_word_embeddings": self.tied,
            "scale_decoder_outputs": self.scale_outputs,
        }

    @property
    def ignored_keys(self) -> str:
        others = [r.head_table for name, r in READOUTS.items() if name != self.readout]
        heads = {name.split(".")[0] for table in others for name, _ in table.values()}
        unused = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias"
        body = rf"(transformer\.)?({unused}|(en|de)coder\.embed_tokens)"
        return rf"({body}|{'|'.join(sorted(heads))})\..*"

    def published_names(self) -> tuple[dict[str, str], ...]:
        readout = READOUTS[self.readout]
        head = {ours: theirs for ours, (theirs, _) in readout.head_table.items()}
        words = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")  # tied: written once
        return tuple(
            {ours: prefix + theirs for ours, (theirs, _) in self._body_table().items()}
            | {"embed": "|".join([*(prefix + w for w in words), *["lm_head"] * self.tied])}
            | head
            for prefix in sorted(("", "transformer."), key=lambda p: p != readout.prefix)
        )

    def rows(self) -> dict[str, int]:
        return {"tokens": self.vocab_size}

    def axes(self) -> dict[str, tuple[str, ...]]:
        table = self._body_table() | READOUTS[self.readout].head_table
        return {ours: axes for ours, (_, axes) in table.items()}

    def wiring(self) -> tuple[Step, ...]:
        steps: list[Step] = [Writer("enc/embed", "enc")]
        for block in (f"enc/block{i:02}" for i in range(self.depth)):
            steps += [*attention(block, self.heads, "enc"), *perceptron(block, "enc")]
        steps.append(Writer("dec/embed", "dec"))
        for block in (f"dec/block{i:02}" for i in range(self.decoder_depth or self.depth)):
            steps += attention(block, self.heads, "dec")
            steps += [*attention(block, self.heads, "dec", "enc"), *perceptron(block, "dec")]
        return (*steps, Reader("logits_in", "", "dec"))

    def parts(self) -> dict[str, int]:
        return dict.fromkeys(("enc_heads", "dec_heads", ".cross_heads"), self.heads)

    def _body_table(self) -> Published:
        attention = {"query": "q", "key": "k", "value": "v", "out": "o"}
        inner = {"gate": "wi_0", "inner": "wi_1"} if self.gated else {"inner": "wi"}
        mlp = ("mlp", "DenseReluDense", ".inner", inner | {"out": "wo"})
        cross = ("cross", "EncDecAttention", ".cross_heads", attention)
        table = {"embed": ("shared", ("", "width"))}
        for ours, theirs, depth, more in (
            ("enc", "encoder", self.depth, ()),
            ("dec", "decoder", self.decoder_depth or self.depth, (cross,)),
        ):
            heads = f"{ours}_heads"  # the same in all blocks: they share the bias of positions
            bias = f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias"
            table[f"{ours}/relative"] = bias, ("", heads)
            table[f"{ours}/norm"] = f"{theirs}.final_layer_norm", ("width",)
            layers = (("attn", "SelfAttention", heads, attention), *more, mlp)
            for i, (j, layer) in itertools.product(range(depth), enumerate(layers)):
                name, module, units, parts = layer
                path, published = f"{ours}/block{i:02}/{name}", f"{theirs}.block.{i}.layer.{j}"
                table[f"{path}_norm"] = f"{published}.layer_norm", ("width",)
                for part, letter in parts.items():
                    axes = (units, "width") if part == "out" else ("width", units)
                    table[f"{path}/{part}"] = f"{published}.{module}.{letter}", axes
        return table


class Readout(nnx.Module):
    """Embeddings of words and two stacks; what derives from it reads the decoder's states."""

    published: ClassVar[str]  # the class of transformers that does the same
    prefix: ClassVar[str] = ""  # of all but the head, as published
    head_table: ClassVar[Published]

    def __init__(self, arch: T5, rngs: nnx.Rngs):
        self.embed = nnx.Embed(arch.vocab_size, arch.width, embedding_init=initial(1), rngs=rngs)
        self.enc = Stack(arch, arch.depth, decodes=False, rngs=rngs)
        self.dec = Stack(arch, arch.decoder_depth or arch.depth, decodes=True, rngs=rngs)
        self.dtype = arch.dtype

    def states(self, inputs: Mapping[str, Array], text: Text, tape: Tape) -> Float[Array, "B P D"]:
        """The decoder's last states, normalised, where it reads `text`."""
        batch, length = inputs["tokens"].shape
        mask = (inputs["mask"] != 0)[:, None, None]
        x = tape("input", self.embed(inputs["tokens"]).astype(self.dtype))
        x, stream = self.enc(x, np.arange(length), mask, None, tape, "enc")
        y = self.embed(jnp.asarray(text.tokens)).astype(self.dtype)
        y = jnp.broadcast_to(y, (batch, *y.shape[1:]))
        visible = jnp.asarray(text.visible)[None, None]
        memory = Memory(x, mask, stream, self.enc.norm)
        return self.dec(y, text.places, visible, memory, tape, "dec")[0]


class FirstStep(Readout):
    """A head on the state after the start token."""

    published, head_table = "T5Model", {"head": ("head", ("width", ""))}

    def __init__(self, arch: T5, num_classes: int, rngs: nnx.Rngs):
        super().__init__(arch, rngs)
        self.head = Dense(arch.width, num_classes, kernel_init=initial(arch.width), rngs=rngs)

    def __call__(self, inputs: Mapping[str, Array], tape: Tape) -> Outputs:
        x = self.states(inputs, whole(np.array([[START]])), tape)
        features = tape("features", x[:, 0].astype(jnp.float32))
        return Outputs(logits=self.head(features), features=features)


class Sequence(Readout):
    """A head with a hidden layer on the state at the input's last </s>."""

    published, prefix = "T5ForSequenceClassification", "transformer."
    head_table: ClassVar[Published] = {
        "head/dense": ("classification_head.dense", ("width", "hidden")),
        "head/out": ("classification_head.out_proj", ("hidden", "")),
    }

    def __init__(self, arch: T5, num_classes: int, rngs: nnx.Rngs):
        super().__init__(arch, rngs)
        init = {"kernel_init": initial(arch.width), "rngs": rngs}
        dense, out = (Dense(arch.width, n, **init) for n in (arch.width, num_classes))
        self.head = nnx.Dict(dense=dense, out=out)

    def __call__(self, inputs: Mapping[str, Array], tape: Tape) -> Outputs:
        tokens = inputs["tokens"]
        shifted = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=START)
        x = self.states(inputs, whole(shifted), tape)
        ends = (tokens == END) & (inputs["mask"] != 0)
        last = jnp.max(jnp.where(ends, jnp.arange(tokens.shape[1]), 0), axis=1)
        x = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        features = tape("features", x.astype(jnp.float32))
        hidden = jnp.tanh(self.head["dense"](features))
        return Outputs(logits=self.head["out"](hidden), features=features)


class Verbalizer(Readout):
    """Log-likelihoods of all classes' words in one pass: the decoder reads their prefix tree."""

    published, head_table = "T5ForConditionalGeneration", {"lm_head": ("lm_head", ("", "width"))}

    def __init__(self, arch: T5, num_classes: int, rngs: nnx.Rngs):
        labels, rows = arch.label_tokens, arch.vocab_size
        known = all(label and all(0 <= t < rows for t in label) for label in labels)
        if not (len({*labels}) == len(labels) == num_classes and known):
            raise ValueError(
                f"t5 label_tokens = {labels}: expected {num_classes} labels, no two the same, each "
                f"of one token or more below vocab_size = {rows}"
            )
        super().__init__(arch, rngs)
        self.labels, self.scale = labels, arch.width**-0.5 if arch.scale_outputs else 1.0
        if not arch.tied:  # starts as in T5X; transformers' 1.0 would give logits of size sqrt(D)
            self.lm_head = nnx.Embed(
                rows, arch.width, embedding_init=initial(arch.width), rngs=rngs
            )

    def __call__(self, inputs: Mapping[str, Array], tape: Tape) -> Outputs:
        text, (node, token, label) = prefix_tree(self.labels, START)
        x = self.states(inputs, text, tape).astype(jnp.float32) * self.scale
        features = tape("features", x[:, 0])
        x = jnp.concatenate([features[:, None], x[:, 1:]], axis=1).astype(self.dtype)
        words = getattr(self, "lm_head", self.embed).embedding[...].astype(self.dtype)
        scores = jnp.einsum("BPD,VD->BPV", x, words, preferred_element_type=jnp.float32)
        scores = tape("lm_logits", scores)
        scores = scores[:, node, token] - jax.nn.logsumexp(scores, axis=-1)[:, node]
        logits = jax.ops.segment_sum(scores.T, label, num_segments=len(self.labels)).T
        return Outputs(logits=logits, features=features)


READOUTS = {"first_step": FirstStep, "sequence": Sequence, "verbalizer": Verbalizer}
