"""Nets built by hand in which one path does all the work: a ViT and a T5.

What flows along the path is a sign; all else is constant, and large, so that norms hang on it alone
to the first order too. Each writer of the path adds its sign to channels of its own, always of one
size, so normalisation is by the same number whatever the signs are, and no edge but those of the
path has any effect. Perceptrons pass the sign on exactly:
gelu(x) - gelu(-x) = relu(x) - relu(-x) = x.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fairkd_jax.models.net import Net
from fairkd_jax.models.t5 import T5
from fairkd_jax.models.vit import ViT

ROWS, CONSTANT = 6, 8.0
LAYER, ROOT = CONSTANT / 2, CONSTANT / np.sqrt(8)  # by which norms of 8 channels divide, nearly
LABEL = np.arange(ROWS, dtype=np.int32) % 2
SIGN = np.float32(1 - 2 * LABEL)


@dataclasses.dataclass(frozen=True)
class Planted:
    """A net, its variables, a batch, and the names of what is on the path."""

    net: Net
    variables: dict
    batch: dict
    edges: tuple[str, ...]
    nodes: tuple[str, ...]


def _zeroed(net: Net) -> dict:
    """Variables that write nothing: normalisation's scales are 1, all else is 0."""
    fresh = net.init(jax.random.key(0))

    def zero(path, x):
        return x if jax.tree_util.keystr(path).endswith("['scale']") else jnp.zeros_like(x)

    return jax.tree.map(np.array, jax.tree_util.tree_map_with_path(zero, fresh))


def vit(depth: int = 2, head: int = 1) -> Planted:
    """The input -> a head of the block at half the depth -> the last perceptron -> logits."""
    arch = ViT(depth=depth, width=8, heads=2, mlp_width=2, patch=4, image=(8, 8), channels=1)
    net = Net(arch, 2, "image")
    variables = _zeroed(net)
    params, first, last = variables["params"], depth // 2 - 1, depth - 1
    params["embed"]["patch"]["kernel"][..., 0, 2:4] = np.array([1, -1]) / 16
    params["embed"]["position"][..., :2] = CONSTANT, -CONSTANT
    block = params[f"block{first:02}"]
    unit = 4 * head
    block["value"]["kernel"][2, unit] = LAYER
    block["attn_out"]["kernel"][unit, 4:6] = 1, -1
    block = params[f"block{last:02}"]
    block["mlp_in"]["kernel"][4] = LAYER, -LAYER
    block["mlp_out"]["kernel"][:, 6:] = [[1, -1], [-1, 1]]
    params["head"]["kernel"][6] = LAYER, -LAYER
    pixels = SIGN[:, None, None, None] * np.ones((1, 8, 8, 1), np.float32)
    batch = _batch("image", {"pixels": pixels}, {"pixels": -pixels})
    read, write = f"block{first:02}/head_out[{head}]", f"block{last:02}/mlp_out"
    edges = (
        f"embed -> block{first:02}/value_in[{head}]",
        f"{read} -> block{last:02}/mlp_in",
        f"{write} -> logits_in",
    )
    return Planted(net, variables, batch, edges, (read, write))


def t5() -> Planted:
    """Words -> a head, a perceptron of the encoder -> a head across -> a perceptron -> logits."""
    arch = T5(depth=2, width=8, heads=2, head_width=2, mlp_width=2, vocab_size=4)
    net = Net(arch, 2, "unigram")
    variables = _zeroed(net)
    params = variables["params"]
    params["embed"]["embedding"][:, 0] = CONSTANT
    params["embed"]["embedding"][2:, 1] = 1, -1
    enc, dec = params["enc"], params["dec"]
    for attention, head, reads, writes in (
        (enc["block00"]["attn"], 0, 1, 2),
        (dec["block00"]["cross"], 1, 3, 4),
    ):
        attention["value"]["kernel"][reads, 2 * head] = ROOT
        attention["out"]["kernel"][2 * head, writes] = 1
    for mlp, reads, writes in ((enc["block01"]["mlp"], 2, 3), (dec["block01"]["mlp"], 4, 5)):
        mlp["inner"]["kernel"][reads] = ROOT, -ROOT
        mlp["out"]["kernel"][:, writes] = 1, -1
    params["head"]["kernel"][5] = ROOT, -ROOT
    tokens = np.stack([np.where(SIGN > 0, 2, 3)] * 3 + [np.zeros(ROWS)], axis=1).astype(np.int32)
    corrupt = np.where(tokens >= 2, 5 - tokens, tokens).astype(np.int32)
    mask = np.ones_like(tokens)
    mask[:, 3] = 0
    batch = _batch("unigram", {"tokens": tokens, "mask": mask}, {"tokens": corrupt, "mask": mask})
    path = (
        ("enc/embed", "enc/block00/value_in[0]"),
        ("enc/block00/head_out[0]", "enc/block01/mlp_in"),
        ("enc/block01/mlp_out", "dec/block00/cross_value_in[1]"),
        ("dec/block00/cross_head_out[1]", "dec/block01/mlp_in"),
        ("dec/block01/mlp_out", "logits_in"),
    )
    nodes = tuple(source for source, _ in path[1:])
    return Planted(net, variables, batch, tuple(f"{a} -> {b}" for a, b in path), nodes)


def _batch(view: str, clean: dict, corrupt: dict) -> dict:
    batch = {"views": {view: clean}, "corrupt": {view: corrupt}, "label": LABEL}
    return batch | {"real": np.ones(ROWS, np.float32)}
