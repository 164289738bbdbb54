"""A view: images without their colour."""

import dataclasses

import numpy as np

from fairkd_jax.data.dataset import Encoder, Split, View, column


@dataclasses.dataclass(frozen=True)
class Grey(View):
    """The mean of the channels, between 0 and `top`."""

    top: float = 1.0

    def fit(self, train: Split) -> "GreyEncoder":
        """Nothing is learned but the size."""
        return GreyEncoder(column(train.columns, "image").shape[1:3], self.top)


class GreyEncoder(Encoder):
    """Scales bytes."""

    def __init__(self, shape: tuple[int, int], top: float):
        self.top = top
        self.facts = {"pixels": shape[0] * shape[1], "identity": f"grey {shape} {top}"}

    def encode(self, columns):
        """{"pixels": float32 [n, Y, X]}."""
        grey = column(columns, "image").mean(-1, dtype=np.float32)
        return {"pixels": grey * np.float32(self.top / 255)}
