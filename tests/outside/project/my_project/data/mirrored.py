"""An augmentation: training images, left and right in each other's place."""

import dataclasses

from fairkd_jax.data.augmentation import Augmentation, copies


@dataclasses.dataclass(frozen=True)
class Mirrored(Augmentation):
    """Every image once, with its label and attribute."""

    needs = ("image",)

    def examples(self, train, dataset):
        """All of them."""
        columns = {k: v[:] for k, v in train.columns.items()}
        return copies(train, columns | {"image": columns["image"][:, :, ::-1]})
