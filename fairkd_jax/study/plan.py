"""Axes x seeds -> experiments -> runs -> stages, each stage once.

An experiment is three runs: teacher f_T (or several), baseline f_S (the student without
distillation) and distilled g. A stage's identity is the hash of its config and inputs, so a teacher
that several students need is planned, and trained, once.
"""

import dataclasses
import functools
import itertools
import math
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fairkd_jax import registry
from fairkd_jax.config import (
    CompareStage,
    Data,
    EvaluateStage,
    Experiment,
    Mix,
    Plugin,
    Role,
    Stage,
    Study,
    TableStage,
    Teacher,
    TrainStage,
    TransferStage,
    update,
)
from fairkd_jax.data import mixture, strength
from fairkd_jax.registry import UnknownName
from fairkd_jax.study.borrow import borrowed
from fairkd_jax.study.reads import sealed, sealed_alone
from fairkd_jax.train import drawn, loop
from fairkd_jax.train.step import input_of, table_of

NO_DISTILLATION = ({"name": "none"},)


@dataclasses.dataclass(frozen=True)
class Run:
    """One net of an experiment and what is asked about it."""

    role: str  # teacher | baseline | distilled
    experiment: Experiment
    axes: Mapping[str, str]  # axis name -> label of the value
    net: Stage
    evaluations: Mapping[str, Stage]  # "in_domain/test" -> stage
    comparisons: Mapping[str, Stage]  # "teacher", or the name of one of several -> stage
    how: Role = Role()
    debias: Plugin = dataclasses.field(default_factory=dict)
    distill: tuple[Plugin, ...] = NO_DISTILLATION
    teachers: Mapping[str, "Run"] = dataclasses.field(default_factory=dict)  # "": it has no name
    baseline: "Run | None" = None
    called: str = ""  # the name of a teacher that has one

    @property
    def model(self) -> Plugin:
        """The net's model config."""
        return self.how.model

    @property
    def teacher(self) -> "Run | None":
        """The teacher, the first of several."""
        return next(iter(self.teachers.values()), None)

    @property
    def name(self) -> str:
        """A readable identity."""
        told = self.debias["name"]
        axes = [v.removeprefix(told).lstrip(", ") for v in self.axes.values()]
        parts = [self.role, *filter(None, [self.called]), told, model_name(self.model)]
        parts += filter(None, axes)
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
            made = update(study.experiment, overrides, "axes")
            data = strength.settled(made.data, made.seed)
            yield dataclasses.replace(made, data=data), labels


def teachers_of(experiment: Experiment) -> dict[str, Teacher]:
    """The teachers by name, in the order of names; "" is the name of one that needs none.

    Raises ValueError for what can be no name.
    """
    for name in experiment.teachers:
        if not re.fullmatch(r"[A-Za-z]\w*", name):
            raise ValueError(
                f"teachers.{name}: a name begins with a letter and has letters, digits and '_'"
            )
    named = {k: experiment.teachers[k] for k in sorted(experiment.teachers)}
    return named or {"": Teacher(**vars(experiment.teacher))}


def _weights(experiment: Experiment) -> dict[str, float]:
    """The weight of each named teacher. Raises UnknownName and ValueError for what can be none."""
    for name, weight in (given := experiment.mix.teachers).items():
        if name not in experiment.teachers:
            raise UnknownName(name, "teacher in mix.teachers:", experiment.teachers)
        registry.check_type(weight, 1.0, f"mix.teachers.{name}")
    weights = {name: float(given.get(name, 1.0)) for name in sorted(experiment.teachers)}
    if weights and not (min(weights.values()) >= 0 and 0 < sum(weights.values()) < math.inf):
        raise ValueError(f"mix.teachers = {weights}: weights are numbers from 0 up, not all 0")
    return weights


def _data(experiment: Experiment, who: str) -> Data:
    """The data that a role's nets are trained on: with the augmentations that are meant for it."""
    data = experiment.data
    return dataclasses.replace(data, augment=mixture.of_role(data.augment, who))


def _train(experiment: Experiment, who: str, role: Role, debias: Plugin, seed: int = 0) -> Stage:
    return Stage(
        "train",
        loop.settled(
            TrainStage(
                data=_data(experiment, who),
                model=role.model,
                debias=debias,
                distill=NO_DISTILLATION,
                mix=Mix(),
                optim=role.optim,
                train=role.train,
                seed=experiment.seed + seed,
            )
        ),
    )


def _teachers(experiment: Experiment) -> dict[str, tuple[Stage, Role, Plugin]]:
    """Of each teacher what makes its net, how, and by which debiasing method."""
    found: dict[str, tuple[Stage, Role, Plugin]] = {}
    for name, how in teachers_of(experiment).items():
        if how.stage or how.workdir:
            found[name] = borrowed(experiment, name, how)
            continue
        debias = how.debias or experiment.debias
        trained = _train(experiment, "teacher", how, debias, how.seed)
        found[name] = registry.build("debias", debias).stages(trained), how, debias
    return found


def _distilled(experiment: Experiment, debias: Plugin, teachers: Mapping[str, Stage]) -> Stage:
    """The student under teachers: live where their inside is read or inputs change, else tables.

    It starts from weights of a teacher where the experiment says so; so does, then, a first
    stage that a method trains like the student.
    """
    methods = [registry.build("distill", d) for d in experiment.distill]
    method = registry.build("debias", debias)
    mix = dataclasses.replace(experiment.mix, teachers=_weights(experiment))
    stage = dataclasses.replace(
        (base := _train(experiment, "distilled", experiment.student, debias)),
        config=dataclasses.replace(base.config, distill=experiment.distill, mix=mix),
    )
    reads = {m.reads for m in methods}
    changes = drawn.changes_inputs(base.config.data, method)
    for name, teacher in teachers.items():
        if "inside" in reads or (changes and reads != {"nothing"}):
            stage = stage.hang(**{input_of(name): teacher})
        elif "logits" in reads:
            table = Stage("table", TableStage(("logits",), experiment.data.split), {"net": teacher})
            stage = stage.hang(**{table_of(input_of(name)): table})
    if experiment.transfer:
        stage = stage.hang(init=_start(experiment, teachers))
    for distiller in methods:
        stage = distiller.stages(stage)
    return method.stages(stage)


def _start(experiment: Experiment, teachers: Mapping[str, Stage]) -> Stage:
    """The weights of a teacher that the student starts from.

    Raises ValueError if it has others, UnknownName where it is not said which of several.
    """
    model, transfer = experiment.student.model, experiment.transfer
    if model.get("pretrained"):
        raise ValueError(
            f"the student starts from {model['pretrained']} and, by transfer, from its teacher: "
            "leave out student.model.pretrained, or say transfer = None"
        )
    name = transfer.teacher or (next(iter(teachers)) if len(teachers) == 1 else "")
    if name not in teachers:
        raise UnknownName(name, "teacher in transfer.teacher:", filter(None, teachers))
    transfer = dataclasses.replace(transfer, teacher="")  # what it is called changes nothing
    config = TransferStage(experiment.data, model, transfer, experiment.seed)
    return Stage("transfer", config, {"net": teachers[name]})


def runs(study: Study) -> list[Run]:
    """All runs of a study; a run that several experiments share is listed once.

    Raises UnknownName and ValueError for teachers that cannot be, or two that are one net.
    """
    found: dict[tuple[str, ...], Run] = {}
    names: dict[tuple[str, ...], str] = {}  # of teachers, by what tells nets apart

    def add(run: Run) -> Run:
        key = (run.net.identity, *run.axes.values())
        if run.role == "teacher" and (other := names.setdefault(key, run.called)) != run.called:
            raise ValueError(
                f"teachers.{other} and teachers.{run.called} are one net, stage {run.net.identity}:"
                " leave one out, or give it another seed (it is added to those of the study, "
                f"of which there are {study.seeds}: say at least so many)"
            )
        return found.setdefault((run.role, *key), run)

    for experiment, axes in experiments(study):
        asked, student = _teachers(experiment), experiment.student
        first, second = experiment.debias, experiment.distilled_debias or experiment.debias
        trained = _train(experiment, "baseline", student, first)
        alone = registry.build("debias", first).stages(trained)
        taught = _distilled(experiment, second, {k: net for k, (net, *_) in asked.items()})
        make = functools.partial(_run, experiment, axes)
        teachers = {k: add(make("teacher", *rest, called=k)) for k, rest in asked.items()}
        baseline = add(make("baseline", alone, student, first, teachers=teachers))
        links = {"teachers": teachers, "baseline": baseline}
        add(make("distilled", taught, student, second, distill=experiment.distill, **links))
    return list(found.values())


def _run(
    experiment: Experiment,
    axes: Mapping[str, str],
    role: str,
    net: Stage,
    how: Role,
    debias: Plugin,
    teachers: Mapping[str, Run] = types.MappingProxyType({}),
    **rest: Any,
) -> Run:
    net = sealed(_covering(net))
    return Run(
        role=role,
        experiment=experiment,
        axes=axes,
        net=net,
        evaluations=_evaluations(experiment, net),
        comparisons=_comparisons(experiment, teachers, net),
        how=how,
        debias=debias,
        teachers=teachers,
        **rest,
    )


def _covering(stage: Stage) -> Stage:
    """The stage, and its inputs, with tables that tell of the extra examples too that it draws."""
    inputs = {name: _covering(one) for name, one in stage.inputs.items()}
    data = getattr(stage.config, "data", None)
    if data and (added := mixture.finite(data.augment)):
        inputs |= {
            name: one.change({"augment": added})
            for name, one in inputs.items()
            if one.kind == "table" and one.config.split == data.split
        }
    return dataclasses.replace(stage, inputs=inputs)


def _evaluations(experiment: Experiment, net: Stage) -> dict[str, Stage]:
    return {
        f"{name}/{split}": sealed_alone(
            Stage("evaluate", EvaluateStage(e.set, split, e.batch_size), {"net": net})
        )
        for name, e in experiment.evaluate.items()
        for split in e.splits
    }


def _comparisons(
    experiment: Experiment, teachers: Mapping[str, Run], net: Stage
) -> dict[str, Stage]:
    """One for each teacher of a student; none where no layers are named."""
    compare = CompareStage(experiment.compare)
    return {
        name or "teacher": sealed_alone(
            Stage("compare", compare, {"first": teacher.net, "second": net})
        )
        for name, teacher in teachers.items()
        if experiment.compare.first
    }


def stages(all_runs: list[Run]) -> list[Stage]:
    """Every stage of some runs once, after its inputs."""
    return ordered(
        s for r in all_runs for s in (r.net, *r.evaluations.values(), *r.comparisons.values())
    )


def ordered(stages: Iterable[Stage]) -> list[Stage]:
    """Some stages and all that they hang on, each once, after its inputs."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.identity not in found:
            for before in stage.inputs.values():
                visit(before)
            found[stage.identity] = stage

    for stage in stages:
        visit(stage)
    return list(found.values())


def smoke(study: Study) -> Study:
    """The study shrunk to seconds: one seed, a few steps of small batches, every stage kind."""
    small = {"steps": 4, "batch_size": 16, "log_every": 2, "checkpoint_every": 2}
    overrides: dict[str, Any] = {"compare.examples": 16}
    asked = study.experiment
    roles: dict[str, Role] = {"student": asked.student}
    for name, how in teachers_of(asked).items():
        if not how.stage:
            roles[f"teachers.{name}" if name else "teacher"] = how
    for role, how in roles.items():
        train = how.train
        overrides |= {f"{role}.train.{k}": v for k, v in small.items()}
        overrides[f"{role}.train.epochs"] = 0.0
        overrides[f"{role}.train.steps"] = min(train.steps, small["steps"])
        overrides[f"{role}.train.eval_every"] = min(train.eval_every, 2)
    experiment = update(asked, overrides)
    return dataclasses.replace(study, name=f"{study.name}-smoke", seeds=1, experiment=experiment)
