"""What ways of scoring edges and nodes cost, and how well they agree with exact patching.

A ViT is trained for a few steps on coloured digits, so that it does something; pairs differ in the
colour. Each way is timed when its programs are compiled.
"""

import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from fairkd_jax import registry, sharding
from fairkd_jax.circuits.graph import graph_of
from fairkd_jax.circuits.metric import metric
from fairkd_jax.circuits.problem import Problem
from fairkd_jax.circuits.shift import spearman
from fairkd_jax.config import Data
from fairkd_jax.data import counterparts, pipeline
from fairkd_jax.losses import cross_entropy
from fairkd_jax.models.net import Net
from fairkd_jax.train import loop

WAYS = (  # what is held against the first of them
    {"name": "exact"},
    {"name": "attribution"},
    {"name": "eap_ig", "steps": 5},
    {"name": "eap_ig", "steps": 20},
)
LARGEST = 0.1  # share of sites: of the largest by exact patching, how many are found


def rows(
    mesh: Mesh, model: dict[str, Any], steps: int, examples: int, batch: int, image: int
) -> Iterator[dict[str, Any]]:
    """A row for each level and way of scoring a net of the family vit."""
    data = Data(set={"name": "colored_digits", "image_size": image})
    opened = pipeline.open_data(data)
    net = loop.net_of(data, model)
    variables = _trained(net, opened, mesh, steps)
    told = (opened.source("test"), opened.dataset, "attribute", "aligned", examples, {net.view})
    source = counterparts.paired(*told)
    batches = [*pipeline.eval_batches(source, sharding.divisible(batch, mesh), views={net.view})]
    for level in ("nodes", "edges"):
        asked = Problem(
            net,
            variables,
            graph_of(net, batches[0], level),
            metric("logit_difference"),
            batches,
            put=lambda found: sharding.put_batch(found, mesh),
        )
        about = {"model": model, "steps": steps, "level": level, "sites": len(asked.graph)}
        exact = None
        for way in WAYS:
            method = registry.build("scores", way)
            start = time.perf_counter()
            if exact is None:
                _ = asked.whole, asked.empty  # compiles all that exact patching runs
            else:
                method.scores(asked)
            compiled = time.perf_counter() - start
            start, cpu = time.perf_counter(), time.process_time()
            found = np.abs(method.scores(asked).mean)
            taken, cpu = time.perf_counter() - start, time.process_time() - cpu
            exact = found if exact is None else exact
            largest = [
                set(np.argsort(-x)[: round(LARGEST * len(x))].tolist()) for x in (exact, found)
            ]
            yield about | {
                "way": way,
                "pairs": len(source),
                "seconds": round(taken, 3),
                "cpu_seconds": round(cpu, 3),
                "first_seconds": round(compiled, 2),
                "rank_correlation": round(spearman(exact, found), 4),
                "largest_found": round(len(largest[0] & largest[1]) / max(len(largest[0]), 1), 3),
                "whole": round(float(asked.whole.mean()), 3),
                "empty": round(float(asked.empty.mean()), 3),
            }


def _trained(net: Net, opened: pipeline.Opened, mesh: Mesh, steps: int) -> Any:
    """Variables after some steps of Adam, or fresh ones."""
    variables = jax.jit(net.init, out_shardings=sharding.replicated(mesh))(jax.random.key(0))
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> tuple:
        def loss(params: Any) -> jax.Array:
            outputs, _ = net.apply(variables | {"params": params}, batch, train=False)
            return cross_entropy(outputs.logits, batch["label"]).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    batches = pipeline.train_batches(opened.source("train"), seed=0, steps=steps, batch_size=64)
    params, state = variables["params"], jax.jit(optimizer.init)(variables["params"])
    for batch in batches:
        params, state = step(params, state, sharding.put_batch(batch, mesh))
    return variables | {"params": params}
