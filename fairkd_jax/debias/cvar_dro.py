"""CVaR-DRO: the mean of the worst `alpha` of the losses (CVaR, arXiv 2010.05893).

`max_q sum_i q_i l_i` over `q` that sum to 1 with `q_i <= 1 / (alpha m)`, m the examples of a batch:
solved exactly, by sorting. `q` is a constant in the gradient.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax.debias.base import Debiaser
from fairkd_jax.types import Array, Spec


def worst_case(
    losses: Float[JaxArray, "B"], real: Float[JaxArray, "B"], alpha: Array
) -> Float[JaxArray, "B"]:
    """`q`: `1 / (alpha m)` on the largest losses, what remains on the next; 0 on padding."""
    there = real > 0
    order = jnp.argsort(jnp.where(there, -losses, jnp.inf))
    above = jnp.argsort(order)  # how many losses are larger
    most = 1.0 / (alpha * jnp.maximum(jnp.sum(there), 1))
    return jnp.where(there, jnp.clip(1.0 - above * most, 0.0, most), 0.0)


@struct.dataclass
class CVaRDRO(Debiaser):
    """The worst examples of each batch alone; it needs no groups.

    The worst of a batch are milder than the worst of all data, the more so the smaller `alpha m`;
    below one example it is the largest loss.
    """

    couples_examples = True
    search = {"alpha": (0.05, 0.1, 0.2, 0.5)}

    alpha: Array = 0.1  # share of the examples that count

    def check(self, spec: Spec) -> None:
        """Raises ValueError for `alpha` out of range."""
        if not 0 < self.alpha <= 1:
            raise ValueError(f"cvar_dro: alpha = {self.alpha}, expected above 0 and up to 1")

    def __call__(self, terms, outputs, batch, params, now, key):
        """`sum_i q_i l_i`."""
        real = batch["real"]
        q = worst_case(jax.lax.stop_gradient(terms.total), real, self.alpha)
        return jnp.sum(q * jnp.where(real > 0, terms.total, 0.0)), now.memory, {}
