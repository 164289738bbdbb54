"""An architecture: one hidden layer over grey pixels."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
from flax import nnx

from fairkd_jax.models.layers import Dense
from fairkd_jax.models.net import Architecture
from fairkd_jax.types import Outputs


@dataclasses.dataclass(frozen=True)
class MLP(Architecture):
    """Reads {"pixels": float32 [B, Y, X]}. Taps: input, block00/out, features."""

    view: ClassVar[str] = "grey"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {"width": 8}, "wide": {}}

    width: int = 32
    pixels: int | None = None

    def fit(self, facts: Mapping[str, Any]) -> "MLP":
        """Takes the number of pixels from the view's facts."""
        return dataclasses.replace(self, pixels=facts["pixels"])

    def module(self, num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
        """The network."""
        return Network(self, num_classes, rngs)


class Network(nnx.Module):
    """Two layers."""

    def __init__(self, sizes: MLP, num_classes: int, rngs: nnx.Rngs):
        self.hidden = Dense(sizes.pixels, sizes.width, rngs=rngs)
        self.head = Dense(sizes.width, num_classes, rngs=rngs)

    def __call__(self, inputs, tape) -> Outputs:
        """Features are what the hidden layer gives."""
        x = tape("input", inputs["pixels"])
        x = tape("block00/out", jax.nn.relu(self.hidden(x.reshape(len(x), -1))))
        x = tape("features", x)
        return Outputs(logits=self.head(x), features=x)
