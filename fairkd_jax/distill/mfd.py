"""Fair feature distillation by maximum mean discrepancy (MFD, arXiv 2106.04411).

`sum over classes c and groups g of MMD^2(teacher's features of c, student's of (c, g)) / 2`: each
group is to look to the student as the whole class looks to the teacher. The reference weighs it 3
or 7. Its code has no division by the number of groups, which the paper's formula has, and its
bandwidth is the mean squared distance between teacher and student: so it is here.
"""

import jax
import jax.numpy as jnp
from flax import struct

from fairkd_jax import geometry
from fairkd_jax.distill import pairs, projections
from fairkd_jax.distill.base import FEATURES, Distiller, Pair
from fairkd_jax.losses import labelled
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import KD, Array, Spec

KERNELS = ("rbf", "poly")
LEAST = 1e-12  # of the squared distance that others are divided by


@struct.dataclass
class MFD(Distiller):
    """A penalty, for it is about groups and not examples; summed over pairs.

    Kernels are "rbf", `exp(-d^2 / (2 bandwidth mean d^2))`, and "poly", the squared cosine. Cells
    without examples in the batch are left out. Where widths differ, which they do not in the paper,
    a dense map is learned from the student's to the teacher's.
    """

    reads = "inside"
    sees_attributes = True
    couples_examples = True

    pairs: tuple[Pair, ...] = struct.field(pytree_node=False, default=FEATURES)
    kernel: str = struct.field(pytree_node=False, default="rbf")
    bandwidth: Array = 1.0  # the reference's sigma, which it does not square

    def check(self, spec: Spec) -> None:
        """Raises ValueError without pairs or teacher, or for positions that differ in number.

        Raises UnknownName for an unknown intermediate or kernel, ValueError for no bandwidth.
        """
        if self.kernel not in KERNELS:
            raise UnknownName(self.kernel, "distill.mfd.kernel", KERNELS)
        if self.bandwidth <= 0:
            raise ValueError(f"distill.mfd: bandwidth = {self.bandwidth}, expected more than 0")
        pairs.check(self, spec)

    def init(self, spec, key):
        """Own parameters: a dense map for each pair and teacher of other widths."""
        return projections.aligning(self.pairs, spec, key), {}

    def __call__(self, student, teachers, batch, params, now):
        """Half the sum over cells, mean over teachers by their shares, []; the bandwidth told."""
        known, groups = labelled(batch), now.group_counts.shape[0]
        classes = now.label_counts.shape[0]
        cells = jax.nn.one_hot(batch["group"], groups) * known[:, None]
        labels = jax.nn.one_hot(batch["label"], classes) * known[:, None]
        labels = jnp.repeat(labels, groups // classes, axis=1)  # [B, G]: the class of each cell
        present = jnp.sum(cells, axis=0) > 0
        ours_of, theirs_of = (x / jnp.maximum(jnp.sum(x, axis=0), 1.0) for x in (cells, labels))
        spreads = []

        def mean(kernel, left, right):
            return jnp.einsum("ig,ij,jg->g", left, kernel, right, precision="highest")

        def loss(met):
            ours, theirs = projections.aligned(met, params).flat()
            spread = jax.lax.stop_gradient(_mean_square_distance(theirs, ours, met.real))
            spreads.append(spread)
            between = mean(self._kernel(theirs, ours, spread), theirs_of, ours_of)
            within = mean(self._kernel(theirs, theirs, spread), theirs_of, theirs_of)
            within += mean(self._kernel(ours, ours, spread), ours_of, ours_of)
            return jnp.sum(jnp.where(present, within - 2 * between, 0.0)) / 2

        penalty = pairs.total(loss, self.pairs, student, teachers, batch)
        told = {"mean_square_distance": sum(spreads) / len(spreads)}
        return KD(per_example=jnp.zeros(len(student.logits)), penalty=penalty, metrics=told)

    def _kernel(self, a, b, spread):
        if self.kernel == "poly":
            return geometry.products(geometry.unit(a), geometry.unit(b)) ** 2
        apart = geometry.square_distances(a, b)
        return jnp.exp(-apart / jnp.maximum(2 * self.bandwidth * spread, LEAST))


def _mean_square_distance(a: Array, b: Array, real: Array) -> Array:
    """Over all pairs of real rows, []."""
    return jnp.sum(geometry.row_means(geometry.square_distances(a, b), real) * real) / jnp.maximum(
        jnp.sum(real), 1.0
    )
