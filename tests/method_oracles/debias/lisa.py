"""Pairs of groups that fit, and their examples mixed by position."""

import jax
import jax.numpy as jnp
from method_oracles.cases import Case

from fairkd_jax.debias.lisa import fits
from fairkd_jax.losses import by_share
from fairkd_jax.models.tape import Mix

ATTRIBUTES = 2


def adapt(case: Case):
    x = case.x
    parts = [x[f"x_g{g}"] for g in range(sum(k.startswith("x_g") for k in x))]
    groups = jnp.arange(len(parts))
    intra_label = x["u"] < case.hyper["p_sel"]

    def batch_of(group):
        label, attribute = group // ATTRIBUTES, group % ATTRIBUTES
        return {"label": label, "attribute": attribute, "real": case.ones(group)}

    weights = [x[name] for name in ("lambda_first", "lambda_second")]
    upper = jnp.triu(fits(batch_of(groups), intra_label))
    pairs = jnp.argwhere(upper, size=len(weights))

    starts = jnp.cumsum(jnp.asarray([0, *map(len, parts)]))
    rows, partners = (
        jnp.concatenate([starts[pair[k]] + jnp.arange(len(w)) for pair, w in zip(pairs, weights)])
        for k in (0, 1)
    )
    every = jnp.arange(sum(map(len, parts)))
    partner = every.at[rows].set(partners)
    weight = jnp.ones(len(every), case.dtype).at[rows].set(jnp.concatenate(weights))
    label = jnp.concatenate([jnp.full(len(v), g // ATTRIBUTES) for g, v in enumerate(parts)])
    batch = {"label": label, "partner_label": label[partner], "label_weight": weight}
    share = jax.vmap(lambda c: by_share(lambda y: (y == c).astype(case.dtype), batch))
    return {
        "mix_type": jnp.where(intra_label, 1, 2),
        "group_pairs": pairs,
        "mixed_x": Mix(partner, weight)(jnp.concatenate(parts))[rows],
        "mixed_y": share(jnp.arange(len(parts) // ATTRIBUTES)).T[rows],
    }
