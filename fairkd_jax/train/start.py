"""The weights that training starts from: published ones, or what an earlier stage left."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from fairkd_jax import registry
from fairkd_jax.config import Data, TrainStage
from fairkd_jax.data import pipeline
from fairkd_jax.models import pretrained, weights
from fairkd_jax.models.net import Net
from fairkd_jax.types import Path


def check_published(data: Data, net: Net, start: weights.Start) -> None:
    """Raises ValueError for published weights of other shapes, labels or inputs than the net's."""
    opened = pipeline.open_data(data)
    label_names = opened.dataset.info.label_names
    pretrained.check(net, start.pretrained, start.head, label_names, start.label_map)
    folder = weights.find(start.pretrained).folder
    view = registry.build("views", data.views[net.view])
    wanted = view.options_for(folder, opened.encoders[net.view])
    if wanted is None:
        _say_on_trust(folder, net.view)
    elif wanted:
        options = " ".join(f"data.views.{net.view}.{k}={v}" for k, v in wanted.items())
        raise ValueError(
            f"the weights {start.pretrained} were made for other inputs than view {net.view!r} "
            f"gives: to them its numbers mean other words or pixels. What they read: {options}"
        )


@functools.lru_cache(maxsize=64)
def _say_on_trust(folder: Path, view: str) -> None:
    logging.warning(
        "nothing in %s says which inputs its weights were made for: that they read what view %r "
        "gives is taken on trust",
        folder,
        view,
    )


def from_published(state: Any, net: Net, config: TrainStage) -> Any:
    """The state with the weights that the model's config names, if any, in every trained net.

    One that is a part of the student's `net` takes what it has of them.
    """
    if (start := weights.split(config.model)[1]) is None:
        return state
    label_names = pipeline.open_data(config.data).dataset.info.label_names
    for name, params in state.params["nets"].items():
        fresh = {"params": params, "stats": state.stats[name]}
        read = pretrained.load(
            net, start.pretrained, fresh, start.head, label_names, start.label_map
        )
        state = from_variables(state, read, name)
    return state


def from_variables(state: Any, variables: Any, name: str = "student") -> Any:
    """The state with the weights of one net replaced; ValueError for those of another shape."""
    old = {"params": state.params["nets"][name], "stats": state.stats[name]}
    shapes, given = (jax.tree.map(np.shape, t) for t in (old, variables))
    if shapes != given:
        raise ValueError("the weights to start from are not those of this student's architecture")
    variables = jax.tree.map(jnp.copy, variables)  # the state is donated, the net is not
    params = state.params | {"nets": state.params["nets"] | {name: variables["params"]}}
    return state.replace(params=params, stats=state.stats | {name: variables["stats"]})
