"""What a step does first with a batch, on the device: bytes become the numbers that nets read."""

import jax.numpy as jnp
import numpy as np

from fairkd_jax.types import Array, Batch, Inputs


def decoded(batch: Batch | tuple) -> Batch:
    """The batch with bytes of its views as float32, `bytes * scale + shift`; again: as it is.

    Four times less crosses to the device than if the host computed it. The constants of a view are
    part of the compiled program. Rows of a resident split are gathered: `batch` is then a pair of
    `Resident` and `Rows`.
    """
    if isinstance(batch, tuple):
        everything, rows = batch
        batch = everything.batch(rows)
    return batch | {"views": {name: decoded_view(view) for name, view in batch["views"].items()}}


def decoded_view(inputs: dict[str, Array]) -> dict[str, Array]:
    """As `decoded`, of one view."""
    scaling = getattr(inputs, "scaling", ())
    if not scaling:
        return inputs
    arrays = dict(inputs)
    for name, scale, shift in scaling:
        constants = np.float32(scale), np.float32(shift)
        arrays[name] = jnp.asarray(arrays[name]).astype(jnp.float32) * constants[0] + constants[1]
    return Inputs(arrays, inputs.identity)
