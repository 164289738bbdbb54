"""What a stage is likely to cost, in floating-point operations: by it a study is put in order.

They are counted as XLA counts those of a forward pass before it optimises; a gradient costs two
passes more. How long they take is not asked: only their ratios matter.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

import jax

from fairkd_jax import registry
from fairkd_jax.config import Data, Mix, Plugin, Stage, TrainStage, as_dict, parse
from fairkd_jax.data import pipeline
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.models.net import Net
from fairkd_jax.study.reads import data_of, made_by
from fairkd_jax.train import drawn, loop, passes
from fairkd_jax.train.step import teachers_of
from fairkd_jax.types import Array, Batch

ALONE = 5e10  # of any stage: programs to compile, files to write; about a second of a CPU


def of(stage: Stage) -> float:
    """Operations of a stage, without those of its inputs."""
    return ALONE + KINDS.get(stage.kind, _inside)(stage)


def remaining(stages: Mapping[str, Stage]) -> dict[str, float]:
    """Of each of these stages by identity: the cost of the longest path that begins with it.

    They are in an order in which inputs come first, and inputs that are not among them are done.
    """
    after = dict.fromkeys(stages, 0.0)
    found = {}
    for identity, one in reversed(stages.items()):
        found[identity] = of(one) + after[identity]
        for before in one.inputs.values():
            if before.identity in after:
                after[before.identity] = max(after[before.identity], found[identity])
    return found


def _forward(data: Data, model: Plugin) -> float:
    """Operations of a net on one example of its data, one of the longest."""
    return _counted(loop.net_of(data, model), json.dumps(as_dict(data), sort_keys=True))


@functools.lru_cache(maxsize=256)
def _counted(net: Net, data: str) -> float:
    config = parse(Data, json.loads(data))
    source = pipeline.open_data(config).source(config.split)
    batches = pipeline.eval_batches(source, 1, views={net.view})  # the shortest come first
    return _flops(net, batches[len(batches) - 1])


def _flops(net: Net, batch: Batch) -> float:
    def forward(variables: Any, batch: Batch) -> Array:
        return net.apply(variables, batch, train=False)[0].logits

    lowered = jax.jit(forward).lower(net.variable_shapes(), batch)
    return float(lowered.cost_analysis()["flops"])


def _train(stage: Stage) -> float:
    """Three passes of each trained net a step, one of each live teacher; validations."""
    config: TrainStage = loop.settled(stage.config)
    train, student = config.train, _forward(config.data, config.model)
    live = [stage.inputs[k].config for k in teachers_of(config.mix) if k in stage.inputs]
    teachers = sum(_forward(one.data, one.model) for one in live)
    example = 3 * student * _passes(config) + teachers
    validations = (train.steps // train.eval_every if train.eval_every else 0) + (
        train.select != "last"
    )
    watched = validations * _examples(config.data, train.validation) if validations else 0
    return example * train.steps * train.batch_size + watched * student


def _passes(config: TrainStage) -> float:
    """Passes of trained nets that a step asks for, each counted as one of the student."""
    debias = registry.build("debias", config.debias)
    if not debias.extra_nets and type(debias).passes is Debiaser.passes:
        return 1.0
    return _asked(json.dumps(as_dict(dataclasses.replace(config, seed=0)), sort_keys=True))


@functools.lru_cache(maxsize=256)
def _asked(key: str) -> float:
    config = parse(TrainStage, json.loads(key))
    alone = dataclasses.replace(config, distill=({"name": "none"},), mix=Mix())
    program, methods = loop.build(alone, {})
    now = drawn.now_of(alone, methods, {})
    batch = drawn.batches(alone, methods, program, {}, padding="fixed")[0]
    nets = passes.trained_nets(program.student, methods.debias)

    def outputs(variables: Any, batch: Batch) -> dict[str, Any]:
        key = jax.random.key(0)
        how = {"train": False, "save": methods.debias.taps}
        keys = dict.fromkeys(nets, key)
        return passes.run(
            program.student, methods.debias, variables, batch, {}, now, keys, key, **how
        )[0]

    variables = {name: net.variable_shapes() for name, net in nets.items()}
    named = jax.eval_shape(outputs, variables, batch)  # by net, or by pass of the student
    one = _flops(program.student, _row(batch))
    return sum(_flops(nets.get(name, program.student), _row(batch)) for name in named) / one


def _row(batch: Batch) -> Batch:
    """The first example alone."""
    return {"views": jax.tree.map(lambda x: x[:1], batch["views"])}


def _examples(data: Data, split: str, spec: Plugin | None = None) -> int:
    return len(pipeline.open_data(data).source(split, spec))


def _table(stage: Stage) -> float:
    """One pass over a split, with the extra examples that it covers."""
    data = stage.inputs["net"].config.data
    source = pipeline.open_data(data).drawn(stage.config.split, stage.config.augment)
    return len(source) * _of_net(stage.inputs["net"])


def _evaluate(stage: Stage) -> float:
    """One pass over a split."""
    examples = _examples(data_of(stage), stage.config.split, stage.config.set)
    return examples * _of_net(stage.inputs["net"])


def _refit(stage: Stage) -> float:
    """One pass over what is trained on."""
    return _examples(stage.config.data, stage.config.data.split) * _of_net(stage)


def _inside(stage: Stage) -> float:
    """Of kinds that have no line below: one pass of each net over the examples that are asked."""
    asked = getattr(stage.config, stage.kind, None)
    examples = getattr(asked, "examples", 0) * 2  # of each kind
    nets = [one for one in stage.inputs.values() if hasattr(one.config, "model")]
    return examples * sum((_of_net(one) for one in nets), 0.0)


def _of_net(stage: Stage) -> float:
    made = made_by(stage)
    return _forward(made.config.data, made.config.model)


KINDS = {
    "train": _train,
    "table": _table,
    "evaluate": _evaluate,
    "refit": _refit,
}
