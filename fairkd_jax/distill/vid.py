"""Variational information distillation (arXiv 1904.05835): a Gaussian of the teacher.

`((r(f_s) - f_t)^2 / v + log v) / 2`, the negative log-likelihood less a constant, as a mean over
positions and channels; r is learned, and a variance `v = softplus(a) + 1e-5` for each channel. The
reference weighs it 1.
"""

import jax
import jax.numpy as jnp
from flax import struct

from fairkd_jax.distill import pairs, projections
from fairkd_jax.distill.base import FEATURES, Distiller, Pair
from fairkd_jax.distill.pairs import positions
from fairkd_jax.types import KD, Array, Spec

LEAST = 1e-5  # of a variance


@struct.dataclass
class VID(Distiller):
    """By example, summed over pairs; the larger of two maps is averaged down first.

    As in the reference r is three maps without bias, ReLU between them.
    """

    reads = "inside"

    pairs: tuple[Pair, ...] = struct.field(pytree_node=False, default=FEATURES)
    variance: Array = 5.0  # in the beginning

    def check(self, spec: Spec) -> None:
        """Raises ValueError without pairs or teacher, or for positions that differ in number.

        Raises UnknownName for an unknown intermediate, ValueError for a variance that is too small.
        """
        if self.variance <= LEAST:
            raise ValueError(f"distill.vid: variance = {self.variance}, expected more than {LEAST}")
        pairs.check(self, spec, same="rank")

    def init(self, spec, key):
        """Own parameters: for each pair and teacher three kernels, and a number a channel."""

        def make(key, ours, theirs):
            keys, width = jax.random.split(key, 3), theirs[-1]
            inputs = (ours[-1], width, width)
            made = {
                f"layer{i}": projections.dense(k, n, width, bias=False)
                for i, (k, n) in enumerate(zip(keys, inputs))
            }
            start = jnp.asarray(self.variance - LEAST, jnp.float32)
            # the inverse of softplus, which does not overflow
            return made | {"log_scale": jnp.full(width, start + jnp.log(-jnp.expm1(-start)))}

        return projections.for_each(self.pairs, spec, key, make), {}

    def __call__(self, student, teachers, batch, params, now):
        """Mean over teachers by their shares, [B]."""

        def loss(met):
            met, own = met.pooled(), params[met.name]
            x = met.ours
            for i in range(3):
                x = projections.apply(own[f"layer{i}"], jax.nn.relu(x) if i else x)
            variance = jax.nn.softplus(own["log_scale"]) + LEAST
            likely = (x - met.theirs) ** 2 / variance + jnp.log(variance)
            return met.mean(jnp.mean(positions(likely), axis=2)) / 2

        return KD(
            per_example=pairs.total(loss, self.pairs, student, teachers, batch),
            penalty=jnp.zeros(()),
        )
