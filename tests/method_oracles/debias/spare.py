"""How often examples of given clusters are drawn."""

import jax
import numpy as np
from method_oracles.cases import Case, on_host

from fairkd_jax.debias.infer.clusters import sampling_weights


def adapt(case: Case):
    powers = np.array(case.hyper["powers_per_class"], float)

    def weights(cluster, label):
        return sampling_weights(cluster, label, powers).astype(case.dtype)

    cluster, label = case.x["cluster"], case.x["y"]
    like = jax.ShapeDtypeStruct(label.shape, case.dtype)
    weight = on_host(weights, like, cluster, label)
    return {"sampling_weight": weight, "probability": weight / len(powers)}
