"""Risk extrapolation, V-REx (arXiv 2003.00688): equal risks in all environments (attributes).

`mean_e R_e + weight * Var_e R_e`, the variance divided by the number of environments.
"""

import jax.numpy as jnp
from flax import struct

from fairkd_jax.debias import environments
from fairkd_jax.debias.base import Debiaser, require_attributes
from fairkd_jax.types import Array, Spec


@struct.dataclass
class VREx(Debiaser):
    """Of whatever loss arrives, over the environments present in the batch.

    DomainBed's form. The paper sums the risks, which changes what a weight means; lw-robust divides
    by one environment less. DomainBed resets Adam when annealing ends; here it runs on.
    """

    sees_attributes = True
    couples_examples = True
    search = {"weight": (1.0, 10.0, 100.0), "anneal_steps": (20, 100)}

    weight: Array = 10.0
    anneal_steps: Array = 500  # the weight is 1 before this step

    def check(self, spec: Spec) -> None:
        """Raises ValueError for training examples of one attribute alone."""
        require_attributes(spec, "vrex")

    def __call__(self, terms, outputs, batch, params, now, key):
        """The mean risk and the penalty, which is 0 with one environment."""
        risks, there, mean = environments.risks(terms.total, batch, now)
        penalty = environments.variance(risks, there)
        weight = jnp.where(now.step < self.anneal_steps, 1.0, self.weight)
        metrics = {"penalty": penalty, "penalty_weight": weight}
        return mean + weight * penalty, now.memory, metrics
