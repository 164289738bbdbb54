"""What penalties of invariance ask of a batch: its statistics by environment, the attribute.

Sums over real rows, as products with one-hot matrices: over a sharded batch they are sums over the
global batch. Environments that a batch lacks take no part.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax.losses import group_means
from fairkd_jax.types import Batch, Now


def members(batch: Batch, now: Now) -> Float[JaxArray, "B E"]:
    """1 where a real row is of an environment."""
    member = jax.nn.one_hot(batch["attribute"], now.num_attributes, dtype=jnp.float32)
    return member * batch["real"][:, None]


def risks(
    losses: Float[JaxArray, "B"], batch: Batch, now: Now
) -> tuple[Float[JaxArray, "E"], Float[JaxArray, "E"], Float[JaxArray, ""]]:
    """(mean loss by environment, 1 where the batch has one, the mean over those that it has)."""
    found, rows = group_means(losses, batch["attribute"], batch["real"], now.num_attributes)
    there = (rows > 0).astype(found.dtype)
    return found, there, average(found, there)


def average(
    values: Float[JaxArray, "E *shape"], there: Float[JaxArray, "E"]
) -> Float[JaxArray, "*shape"]:
    """Over the environments that are there; 0 where none is."""
    share = there / jnp.maximum(jnp.sum(there), 1.0)
    return jnp.tensordot(share, values, 1, precision="highest")


def variance(
    values: Float[JaxArray, "E *shape"], there: Float[JaxArray, "E"]
) -> Float[JaxArray, "*shape"]:
    """Over the environments that are there, divided by their number (biased)."""
    return average((values - average(values, there)) ** 2, there)


def mean_over_pairs(
    variance: Float[JaxArray, "*shape"], there: Float[JaxArray, "E"]
) -> Float[JaxArray, "*shape"]:
    """The mean of `(v_i - v_j)^2` over pairs of environments: `2 n / (n - 1)` times the variance.

    0 where fewer than two are there.
    """
    n = jnp.sum(there)
    return variance * 2 * n / jnp.maximum(n - 1, 1.0)
