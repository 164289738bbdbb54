"""Configs that timm writes: an architecture's name, and the arguments that it was given besides."""

import re
from collections.abc import Mapping
from typing import Any

from fairkd_jax.registry import freeze

ABOVE = ("global_pool", "in_chans")  # arguments that may stand beside model_args
IDLE = re.compile(  # arguments that change nothing of what trained weights compute
    r"num_classes|(patch_|drop_|pos_)*drop(_path|_block)?_rate|weight_init|fix_init"
    r"|zero_init_last|dynamic_img_(size|pad)|device|dtype|scriptable|exportable"
)


def wrote(config: Mapping[str, Any]) -> bool:
    """Whether a config is one of timm's."""
    return "architecture" in config and "model_type" not in config


def read(
    config: Mapping[str, Any], names: Mapping[str, str], only: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """(name of the architecture without its tag, the options of ours that arguments set).

    `names` maps arguments to options, `only` those of which one value is there to that value.
    Raises ValueError that lists all other arguments and values.
    """
    beside = {k: config[k] for k in ABOVE if k in config}
    given = beside | dict(config.get("model_args") or {})
    given = {k: freeze(v) for k, v in given.items() if v is not None and not IDLE.fullmatch(k)}
    faults = [
        f"{k} = {given[k]!r}; only {v!r} is there" for k, v in only.items() if given.get(k, v) != v
    ]
    known = ", ".join(sorted(names))
    strange = sorted(given.keys() - names.keys() - only.keys())
    faults += [f"{k} = {given[k]!r} is not known; known are {known}" for k in strange]
    if faults:
        raise ValueError(f"arguments in timm config: {'; '.join(faults)}")
    size = (config.get("pretrained_cfg") or config).get("input_size")  # channels, height, width
    options = {"channels": size[0] if size else 3}
    options |= {names[k]: v for k, v in given.items() if k in names}
    return str(config["architecture"]).partition(".")[0], options
