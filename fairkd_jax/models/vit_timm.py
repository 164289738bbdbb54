"""What timm's configs say of a vision transformer, as options of ViT."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from fairkd_jax.models import timm
from fairkd_jax.models.weights import check_variant
from fairkd_jax.registry import UnknownName

NAME = re.compile(r"(?:vit|deit)_(tiny|small|base|large)_(distilled_)?patch(\d+)_(\d+)")
PRESETS = {"tiny": "ti16", "small": "s16", "base": "b16", "large": "l16"}
POOLINGS = {"token": "cls", "avg": "mean"}
ARGUMENTS = {  # of timm: our options
    "embed_dim": "width",
    "depth": "depth",
    "num_heads": "heads",
    "mlp_ratio": "mlp_ratio",
    "patch_size": "patch",
    "img_size": "image",
    "in_chans": "channels",
    "global_pool": "pooling",
    "fc_norm": "fc_norm",
    "qkv_bias": "qkv_bias",
    "proj_drop_rate": "dropout",
    "attn_drop_rate": "attention_dropout",
}
ONLY = {
    "act_layer": "gelu",
    "class_token": True,
    "pos_embed": "learn",
    "no_embed_class": False,
    "reg_tokens": 0,
    "pre_norm": False,
    "final_norm": True,
    "qk_norm": False,
    "proj_bias": True,
    "pool_include_prefix": False,
}


def options(
    config: Mapping[str, Any], keys: Collection[str], presets: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The options of the ViT that a config of timm describes; `keys` are those of its weights.

    Raises UnknownName for another architecture or pooling, ValueError for other arguments.
    """
    name, given = timm.read(config, ARGUMENTS, ONLY)
    if (found := NAME.fullmatch(name)) is None:
        choices = [f"{kind}_{size}_patchP_PIXELS" for kind in ("vit", "deit") for size in PRESETS]
        choices.append("deit_SIZE_distilled_patchP_PIXELS")
        raise UnknownName(name, "architecture in timm config:", choices)
    size, distilled, patch, image = found.groups()
    fixed = {"dropout": 0.0, "attention_dropout": 0.0, "patch": int(patch), "image": int(image)}
    made = {**presets[PRESETS[size]], **fixed, "pooling": "token", "fc_norm": None, **given}
    for side in ("patch", "image"):
        made[side] = (made[side],) * 2 if isinstance(made[side], int) else made[side]
    if (pooling := made["pooling"]) not in POOLINGS:
        raise UnknownName(str(pooling), "global_pool in timm config:", POOLINGS)
    normed = made.pop("fc_norm")
    if normed is None:  # timm's default, where no weights are there to tell
        normed = "fc_norm.weight" in keys if keys else pooling == "avg"
    only = {"fc_norm": False, "patch_size": made["patch"][:1] * 2}
    given = {"fc_norm": bool(normed), "patch_size": made["patch"]}
    check_variant(given, only, f"{name} in timm config")
    two = distilled and (not keys or "head_dist.weight" in keys)
    return made | {
        "mlp_width": int(made["width"] * made.pop("mlp_ratio", 4)),
        "patch": made["patch"][0],
        "pooling": POOLINGS[pooling],
        "distillation": "head" if two else "token" if distilled else "none",
        "epsilon": 1e-6,
    }
