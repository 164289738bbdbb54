"""A source whose examples have other attributes: those that an earlier stage inferred."""

import dataclasses

import numpy as np
from jaxtyping import Int

from fairkd_jax.data.source import Source
from fairkd_jax.types import Batch


class Regrouped(Source):
    """The rows of a source without extra examples, with attributes below `count`.

    Raises ValueError for others.
    """

    def __init__(self, whole: Source, attribute: Int[np.ndarray, "N"], count: int):
        if not 0 <= attribute.min() <= attribute.max() < count:
            raise ValueError(
                f"inferred attributes {attribute.min()}..{attribute.max()} outside 0..{count - 1}"
            )
        info, attribute = whole.split.info, attribute.astype(np.int32)
        info = dataclasses.replace(
            info,
            attribute_names=tuple(f"inferred {k}" for k in range(count)),
            aligned=((True,) * count,) * len(info.label_names),
        )
        group = whole.split.columns["label"] * np.int32(count) + attribute
        columns = {**whole.split.columns, "attribute": attribute, "group": group}
        split = dataclasses.replace(whole.split, columns=columns, info=info)
        super().__init__(split, whole.encoders)
        self._whole = whole
        self.view, self.require = whole.view, whole.require

    def augment(self, batch: Batch, seed: int, step: int) -> Batch:
        """What changes an example knows the attributes of the data, and not the inferred ones."""
        changed = self._whole.augment(batch, seed, step)
        return changed | {k: batch[k] for k in ("attribute", "group")}
