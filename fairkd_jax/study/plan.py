"""Axes x seeds -> experiments -> runs -> stages, each stage once.

An experiment is three runs: teacher f_T, baseline f_S (the student without distillation) and
distilled g. A stage's identity is the hash of its config and inputs, so a teacher that several
students need is planned, and trained, once.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from fairkd_jax import registry
from fairkd_jax.config import (
    CompareStage,
    EvaluateStage,
    Experiment,
    Mix,
    Plugin,
    Role,
    Stage,
    Study,
    TableStage,
    TrainStage,
    TransferStage,
    update,
)
from fairkd_jax.study.reads import sealed, sealed_alone
from fairkd_jax.train import loop
from fairkd_jax.train.step import table_of

NO_DISTILLATION = ({"name": "none"},)


@dataclasses.dataclass(frozen=True)
class Run:
    """One net of an experiment and what is asked about it."""

    role: str  # teacher | baseline | distilled
    experiment: Experiment
    axes: Mapping[str, str]  # axis name -> label of the value
    net: Stage
    evaluations: Mapping[str, Stage]  # "in_domain/test" -> stage
    comparisons: Mapping[str, Stage]  # "teacher" -> stage
    debias: Plugin = dataclasses.field(default_factory=dict)
    distill: tuple[Plugin, ...] = NO_DISTILLATION
    teacher: "Run | None" = None
    baseline: "Run | None" = None

    @property
    def model(self) -> Plugin:
        """The net's model config."""
        return (
            self.experiment.teacher if self.role == "teacher" else self.experiment.student
        ).model

    @property
    def name(self) -> str:
        """A readable identity."""
        told = self.debias["name"]
        axes = [v.removeprefix(told).lstrip(", ") for v in self.axes.values()]
        parts = [self.role, told, model_name(self.model), *filter(None, axes)]
        return " ".join([*parts, f"seed{self.experiment.seed}", self.net.identity[:6]])


def model_name(model: Plugin) -> str:
    """ "bert/tiny", or "bert/minilm" by the name of the published weights it starts from."""
    weights = str(model.get("pretrained") or "").rstrip("/").rpartition("/")[2]
    parts = model.get("name"), model.get("preset"), weights.removesuffix(".safetensors")
    return "/".join(str(part) for part in parts if part)


def label(value: Any) -> str:
    """What an axis value is called in tables: its "label", a plugin's name, or itself."""
    if isinstance(value, Mapping):
        if "label" in value:
            return str(value["label"])
        if "name" in value:
            return str(value["name"])
        return ", ".join(label(v) for v in value.values())
    if isinstance(value, list | tuple):
        return "+".join(label(v) for v in value)
    return str(value)


def changes(axis: str, value: Any) -> dict[str, Any]:
    """What a value of an axis changes: dotted keys of the experiment, with their values."""
    if isinstance(value, Mapping) and "name" not in value:
        return {k: v for k, v in value.items() if k != "label"}
    return {axis: value}


def experiments(study: Study) -> Iterator[tuple[Experiment, dict[str, str]]]:
    """Every experiment with the labels of its axis values, seed after seed."""
    for seed in range(study.seeds):
        for values in itertools.product(*study.axes.values()):
            overrides: dict[str, Any] = {"seed": study.experiment.seed + seed}
            for key, value in zip(study.axes, values):
                overrides |= changes(key, value)
            labels = {k: label(v) for k, v in zip(study.axes, values)}
            yield update(study.experiment, overrides, "axes"), labels


def _train(experiment: Experiment, role: Role, debias: Plugin) -> Stage:
    return Stage(
        "train",
        loop.settled(
            TrainStage(
                data=experiment.data,
                model=role.model,
                debias=debias,
                distill=NO_DISTILLATION,
                mix=Mix(),
                optim=role.optim,
                train=role.train,
                seed=experiment.seed,
            )
        ),
    )


def _distilled(experiment: Experiment, debias: Plugin, teacher: Stage) -> Stage:
    """The student under a teacher: live where its inside is read or inputs change, else a table.

    It starts from weights of the teacher where the experiment says so; so does, then, a first
    stage that a method trains like the student.
    """
    methods = [registry.build("distill", d) for d in experiment.distill]
    method = registry.build("debias", debias)
    stage = dataclasses.replace(
        (base := _train(experiment, experiment.student, debias)),
        config=dataclasses.replace(base.config, distill=experiment.distill, mix=experiment.mix),
    )
    reads = {m.reads for m in methods}
    changes = loop.changes_inputs(experiment.data, method)
    if "inside" in reads or (changes and reads != {"nothing"}):
        stage = stage.hang(teacher=teacher)
    elif "logits" in reads:
        table = Stage("table", TableStage(("logits",), experiment.data.split), {"net": teacher})
        stage = stage.hang(**{table_of("teacher"): table})
    if experiment.transfer:
        stage = stage.hang(init=_start(experiment, teacher))
    for distiller in methods:
        stage = distiller.stages(stage)
    return method.stages(stage)


def _start(experiment: Experiment, teacher: Stage) -> Stage:
    """The weights of the teacher that the student starts from; ValueError if it has others."""
    model = experiment.student.model
    if model.get("pretrained"):
        raise ValueError(
            f"the student starts from {model['pretrained']} and, by transfer, from its teacher: "
            "leave out student.model.pretrained, or say transfer = None"
        )
    config = TransferStage(experiment.data, model, experiment.transfer, experiment.seed)
    return Stage("transfer", config, {"net": teacher})


def runs(study: Study) -> list[Run]:
    """All runs of a study; a run that several experiments share is listed once."""
    found: dict[tuple[str, ...], Run] = {}

    def add(run: Run) -> Run:
        return found.setdefault((run.role, run.net.identity, *run.axes.values()), run)

    for experiment, axes in experiments(study):
        second = experiment.distilled_debias or experiment.debias
        method = registry.build("debias", experiment.debias)
        nets = {
            role: method.stages(_train(experiment, how, experiment.debias))
            for role, how in (("teacher", experiment.teacher), ("baseline", experiment.student))
        }
        nets["distilled"] = _distilled(experiment, second, nets["teacher"])
        nets = {role: sealed(net) for role, net in nets.items()}
        made: dict[str, Run] = {}
        for role, net in nets.items():
            made[role] = add(
                Run(
                    role=role,
                    experiment=experiment,
                    axes=axes,
                    net=net,
                    evaluations=_evaluations(experiment, net),
                    comparisons=_comparisons(experiment, nets["teacher"], net, role),
                    debias=second if role == "distilled" else experiment.debias,
                    distill=experiment.distill if role == "distilled" else NO_DISTILLATION,
                    teacher=made.get("teacher"),
                    baseline=made.get("baseline"),
                )
            )
    return list(found.values())


def _evaluations(experiment: Experiment, net: Stage) -> dict[str, Stage]:
    return {
        f"{name}/{split}": sealed_alone(
            Stage("evaluate", EvaluateStage(e.set, split, e.batch_size), {"net": net})
        )
        for name, e in experiment.evaluate.items()
        for split in e.splits
    }


def _comparisons(experiment: Experiment, teacher: Stage, net: Stage, role: str) -> dict[str, Stage]:
    if role == "teacher" or not experiment.compare.first:
        return {}
    inputs = {"first": teacher, "second": net}
    return {"teacher": sealed_alone(Stage("compare", CompareStage(experiment.compare), inputs))}


def stages(all_runs: list[Run]) -> list[Stage]:
    """Every stage once, after its inputs."""
    ordered: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.identity not in ordered:
            for before in stage.inputs.values():
                visit(before)
            ordered[stage.identity] = stage

    for run in all_runs:
        for stage in (run.net, *run.evaluations.values(), *run.comparisons.values()):
            visit(stage)
    return list(ordered.values())


def smoke(study: Study) -> Study:
    """The study shrunk to seconds: one seed, a few steps of small batches, every stage kind."""
    small = {"steps": 4, "batch_size": 16, "log_every": 2, "checkpoint_every": 2}
    overrides: dict[str, Any] = {"compare.examples": 16}
    for role in ("teacher", "student"):
        train = getattr(study.experiment, role).train
        overrides |= {f"{role}.train.{k}": v for k, v in small.items()}
        overrides[f"{role}.train.epochs"] = 0.0
        overrides[f"{role}.train.steps"] = min(train.steps, small["steps"])
        overrides[f"{role}.train.eval_every"] = min(train.eval_every, 2)
    experiment = update(study.experiment, overrides)
    return dataclasses.replace(study, name=f"{study.name}-smoke", seeds=1, experiment=experiment)
