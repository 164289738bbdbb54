"""Three losses with a bias model whose say is annealed; the exponent is that of the case."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case, reduce, with_bias

from fairkd_jax.debias.bias_reweight import BiasReweight
from fairkd_jax.debias.confidence_regularisation import ConfidenceRegularisation
from fairkd_jax.debias.poe import PoE

READS = ("theta_code",)
METHODS = {"reweight": BiasReweight, "poe": PoE, "confreg": ConfidenceRegularisation}


def adapt(case: Case):
    x, found = case.x, {}
    batch = with_bias(case, jnp.log(x["bias_probs"]), erm=jnp.log(x["teacher_probs"]))
    for k in (int(name[2:]) for name in sorted(x) if name.startswith("z_")):
        for name, kind in METHODS.items():
            method = kind(anneal_to=x["theta_code"][k])
            loss, grad = jax.value_and_grad(
                lambda z, method=method: reduce(method, z, batch, {}, {}, step=1)[0]
            )(x[f"z_{k}"])
            found |= {f"loss_{name}_{k}": loss, f"grad_z_{name}_{k}": grad}
    return found
