"""The names of the intermediates of every preset, pinned: studies and notebooks refer to them.

After a wanted change write the file anew: `python tests/models/test_tap_names.py`.
"""

import itertools
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from fairkd_jax import registry
from fairkd_jax.models.net import make_net

GOLDEN = pathlib.Path(__file__).with_name("tap_names.txt")
TOKENS = {name: jax.ShapeDtypeStruct((1, 8), jnp.int32) for name in ("tokens", "mask", "segments")}
WORDS = {"vocab_size": 16, "length": 8, "label_tokens": ((3,), (4,))}
IMAGE = {"height": 32, "width": 32, "channels": 3}
FACTS = {"wordpiece": WORDS, "unigram": WORDS, "image": IMAGE}
BATCH = {
    "views": {
        "wordpiece": TOKENS,
        "unigram": TOKENS,
        "image": {"pixels": jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)},
    }
}
PRESETS = [
    (f, p) for f in registry.available("models") for p in registry.plugin("models", f).presets
]


def names(family, preset):
    """In the order of the computation."""
    net, heard = make_net({"name": family, "preset": preset}, 2, FACTS), []

    def forward(variables, batch):
        heard.extend(net.apply(variables, batch, train=False, save=".*")[0].taps)

    jax.eval_shape(forward, net.variable_shapes(), BATCH)
    return heard


def fold(heard):
    """Names as text: what follows in one folder in braces, folders that go on by number as one."""
    groups = [
        (folder, tuple(n.rpartition("/")[2] for n in inside))
        for folder, inside in itertools.groupby(heard, lambda n: n.rpartition("/")[0])
    ]
    words = []
    for folder, inside in groups:
        text = inside[0] if len(inside) == 1 else "{" + " ".join(inside) + "}"
        stem, number = re.fullmatch(r"(.*?)(\d*)", folder).groups()
        last = words[-1] if words and number else [None] * 4
        if last[0] == stem and last[3] == text and int(last[2]) + 1 == int(number):
            last[2] = number
        else:
            words.append([stem, number, number, text])
    spans = [first if first == last else f"({first}-{last})" for _, first, last, _ in words]
    return [
        f"{stem}{span}/{text}" if stem else text.strip("{}")
        for (stem, _, _, text), span in zip(words, spans)
    ]


def line(family, preset):
    return f"{family} {preset}: {' '.join(fold(names(family, preset)))}"


@pytest.mark.parametrize("family, preset", PRESETS)
def test_names_of_a_preset(family, preset):
    assert line(family, preset) in GOLDEN.read_text().splitlines()


def test_no_preset_is_pinned_that_is_not_there():
    pinned = {tuple(row.split(":")[0].split()) for row in GOLDEN.read_text().splitlines()}
    assert pinned == set(PRESETS)


if __name__ == "__main__":
    GOLDEN.write_text("\n".join(line(*preset) for preset in PRESETS) + "\n")
