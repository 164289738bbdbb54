"""Margin control (MARG-CTRL, arXiv 2308.12553): losses that stop rewarding ever larger margins.

- sigma_damp: `softplus(-T_y v (1 - sigmoid(v)))`, `v = scale m`: past its peak, at m = 1, a larger
  margin m no longer helps.
- marg_log: `CE + weight log(1 + (m - target_y)^2)`: margins away from a target cost.

Both are known for two classes alone, with `m = (2y - 1) f` of one logit f, from a third party's
notebook (Archishag23/MLS_Project); no authors' code was found. The form for more classes is ours:
`m = z_y - log sum_{c != y} e^z_c`, the log-odds of the label. With two classes it is the binary one
of `f = z_1 - z_0`; with any number cross-entropy is `softplus(-m)`, which both kinds change.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float, Int

from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import by_share
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Array, Spec

KINDS = ("sigma_damp", "marg_log")


def log_odds(logits: Float[JaxArray, "B C"], label: Int[JaxArray, "B"]) -> Float[JaxArray, "B"]:
    """`log p_y / (1 - p_y)`."""
    is_label = jax.nn.one_hot(label, logits.shape[1], dtype=bool)
    others = jax.nn.logsumexp(logits, axis=1, where=~is_label)
    return jnp.sum(jnp.where(is_label, logits, 0.0), axis=1) - others


@struct.dataclass
class MargCtrl(Debiaser):
    """The task loss; it reduces by the mean. Tuples hold one number, or one for each class.

    The notebook's target is of f, ours of the margin: for class 0 its sign is the opposite.
    """

    search = {"temperature": ((0.5,), (1.0,), (2.0,), (3.0,))}

    kind: str = struct.field(pytree_node=False, default="sigma_damp")  # sigma_damp | marg_log
    temperature: tuple[Array, ...] = (1.0,)  # of sigma_damp (T)
    scale: Array = 1.278  # of sigma_damp; v (1 - sigmoid(v)) is largest at v = 1.278
    weight: Array = 0.1  # of marg_log's penalty (lambda)
    target: tuple[Array, ...] = (0.0,)  # of marg_log (gamma)

    def check(self, spec: Spec) -> None:
        """Raises UnknownName for `kind`, ValueError for a wrong number of numbers."""
        if self.kind not in KINDS:
            raise UnknownName(self.kind, "value of debias.marg_ctrl.kind:", KINDS)
        for name in ("temperature", "target"):
            numbers = [float(v) for v in getattr(self, name)]
            if len(numbers) not in (1, spec.num_classes):
                raise ValueError(
                    f"marg_ctrl: {name} = {numbers}: expected one number, or one for each of the "
                    f"{spec.num_classes} classes"
                )

    def task(self, outputs, batch, params, now):
        """The loss of the kind by example, [B]."""
        logits = outputs["student"].logits
        numbers = self.temperature if self.kind == "sigma_damp" else self.target
        by_class = jnp.broadcast_to(jnp.asarray(numbers), logits.shape[1])

        def loss(label):
            margin, number = log_odds(logits, label), by_class[label]
            if self.kind == "sigma_damp":
                v = self.scale * margin
                return jax.nn.softplus(-number * v * jax.nn.sigmoid(-v))
            away = (margin - number) ** 2
            return jax.nn.softplus(-margin) + self.weight * jnp.log1p(away)

        return by_share(loss, batch)
