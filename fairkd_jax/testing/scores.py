"""What every way of scoring sites must keep, whoever wrote it. `plugin` is its config."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fairkd_jax import registry
from fairkd_jax.circuits import faithful, select
from fairkd_jax.circuits.graph import Graph, graph_of
from fairkd_jax.circuits.metric import metric
from fairkd_jax.circuits.problem import Problem
from fairkd_jax.circuits.score import Scored
from fairkd_jax.models.net import Architecture, Net
from fairkd_jax.models.wiring import Reader, Step, Writer, perceptron
from fairkd_jax.types import Outputs

ROWS, TOKENS, WIDTH, DEPTH = 6, 3, 4, 3
PATH = ("embed -> block00/mlp_in", "block00/mlp_out -> block02/mlp_in")
PATH += ("block02/mlp_out -> logits_in",)


class Linear(nnx.Module):
    """Perceptrons without a hidden layer, which add to a stream; logits are two of its channels.

    One path does all the work: the first writes channel 1 of what it reads in channel 0, the last
    channel 2 of channel 1. The one between reads channel 3, which nothing is written to.
    """

    def __init__(self):
        kernels = np.zeros((DEPTH, WIDTH, WIDTH), np.float32)
        kernels[0, 0, 1], kernels[1, 3, 0], kernels[2, 1, 2] = 2.0, 1.0, 1.5
        self.kernels = nnx.Param(jnp.asarray(kernels))

    def __call__(self, inputs: dict[str, Any], tape: Any) -> Outputs:
        x = tape("embed", inputs["pixels"][:, :, 0])
        for i in range(DEPTH):
            read = tape.seam(f"block{i:02}/mlp_in", x)
            x = x + tape(f"block{i:02}/mlp_out", read @ self.kernels[i])
        x = tape("features", jnp.sum(tape.seam("logits_in", x), axis=1))
        return Outputs(logits=jnp.stack([x[:, 2], jnp.zeros(len(x))], axis=1), features=x)


@dataclasses.dataclass(frozen=True)
class LinearArchitecture(Architecture):
    """A linear net in which one path does all the work."""

    view: ClassVar[str] = "image"
    presets: ClassVar[dict] = {}

    def fit(self, facts: Any) -> Architecture:
        return self

    def module(self, num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
        return Linear()

    def wiring(self) -> tuple[Step, ...]:
        blocks = (f"block{i:02}" for i in range(DEPTH))
        steps = [step for block in blocks for step in perceptron(block)]
        return Writer("embed"), *steps, Reader("logits_in", "")


def problem(level: str, ablation: str = "interchange") -> Problem:
    """Clean and corrupt inputs differ in channel 0; the last row is padding."""
    net = Net(LinearArchitecture(), 2, "image")
    random = np.random.default_rng(0)
    clean = random.normal(size=(ROWS, TOKENS, 1, WIDTH)).astype(np.float32)
    clean[..., 2:] = 0  # channel 2 holds what the path made, channel 3 nothing
    corrupt = clean.copy()
    corrupt[..., 0] -= 1 + random.random((ROWS, TOKENS, 1))
    batch = {
        "views": {"image": {"pixels": clean}},
        "corrupt": {"image": {"pixels": corrupt}},
        "label": np.arange(ROWS, dtype=np.int32) % 1,
        "real": (np.arange(ROWS) < ROWS - 1).astype(np.float32),
    }
    variables = net.init(jax.random.key(0))
    graph = graph_of(net, batch, level)
    return Problem(net, variables, graph, metric("logit_difference"), [batch], ablation)


@pytest.fixture(scope="module")
def found(plugin) -> dict[str, tuple[Problem, Scored]]:
    """What a way of scoring finds, by level."""
    method = registry.build("scores", plugin)
    asked = {level: problem(level) for level in ("nodes", "edges")}
    return {level: (one, method.scores(one)) for level, one in asked.items()}


def circuit(graph: Graph, scored: Scored, size: int) -> np.ndarray:
    return select.top(graph, scored.mean, size)


def test_scores_are_finite_one_for_each_site_and_example(plugin, found):
    method = registry.build("scores", plugin)
    assert dataclasses.is_dataclass(method) and hash(method) == hash(
        registry.build("scores", plugin)
    )
    for asked, scored in found.values():
        assert scored.by_example.shape == (len(asked.graph), ROWS - 1)
        assert np.isfinite(scored.by_example).all()
        assert scored.kept is None or scored.kept.shape == (len(asked.graph),)


def test_the_only_path_is_found_and_does_all(plugin, found):
    which = faithful.draws(ROWS - 1, 10, 0)
    for level, (asked, scored) in found.items():
        names = np.array(asked.graph.names)
        path = PATH if level == "edges" else ("block00/mlp_out", "block02/mlp_out")
        kept = circuit(asked.graph, scored, len(path))
        assert {*names[kept]} == {*path}
        told = faithful.faithfulness(asked.values(kept[None]), asked, which)
        np.testing.assert_allclose([told[k][0] for k in ("value", "low", "high")], 1.0, rtol=1e-4)
        if scored.kept is not None:
            assert {*names[scored.kept]} == {*path}


def test_what_does_nothing_has_no_score(plugin, found):
    asked, scored = found["edges"]
    idle = ["block01" in name for name in asked.graph.names]
    np.testing.assert_allclose(scored.mean[idle], 0.0, atol=1e-5)


def test_it_gives_the_same_at_every_call(plugin, found):
    asked, scored = found["nodes"]
    again = registry.build("scores", plugin).scores(asked)
    np.testing.assert_array_equal(again.by_example, scored.by_example)
