"""Images mixed with another training image, labels alike (arXiv 1710.09412), pixel by pixel.

`x <- w x + (1 - w) x'`, `w ~ Beta(alpha, alpha)` folded to [1/2, 1], for each example by itself: so
its label and group are those of the larger part. The debiasing method of this name mixes within the
batch, inside of nets and with one `w` a batch, at any intermediate, of texts too: the two share the
loss of two labels (`losses.task_loss`), and there is no more that they could.
"""

import dataclasses

import numpy as np
from scipy.special import betaincinv

from fairkd_jax.data.augmentation import Augmentation, Columns, Numbers
from fairkd_jax.data.dataset import Split


@dataclasses.dataclass(frozen=True)
class Mixup(Augmentation):
    """Pixels are rounded to bytes again."""

    needs = ("image",)
    changes_inputs = True
    mixes = True
    partners = True

    rate: float = 1.0
    alpha: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        if not self.alpha > 0:
            raise ValueError(f"mixup: alpha = {self.alpha}, expected a number above 0")

    def change(self, columns: Columns, train: Split, draw: Numbers) -> Columns:
        rows = self.partners_of(train, draw)
        weight = own_share(draw(3)[:, 2], self.alpha)
        own, other = columns["image"], train.columns["image"][rows]
        share = weight[:, None, None, None]
        return {
            "image": (share * own + (1 - share) * other).round().astype(np.uint8),
            "partner_label": train.columns["label"][rows],
            "label_weight": weight,
        }


def own_share(drawn: np.ndarray, alpha: float) -> np.ndarray:
    """Numbers even in [0, 1) as ones of Beta(alpha, alpha), folded to [1/2, 1]; float32."""
    weight = betaincinv(alpha, alpha, drawn)
    return np.maximum(weight, 1 - weight).astype(np.float32)
