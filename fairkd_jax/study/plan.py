"""Axes x seeds -> experiments -> runs -> stages, each stage once.

An experiment is three runs: teacher f_T (or several), baseline f_S (the student without
distillation) and distilled g; and one for each rung between them, see `chain.py`. A stage's
identity is the hash of its config and inputs, so a teacher that several students need is planned,
and trained, once.
"""

import dataclasses
import functools
import itertools
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any

from fairkd_jax import registry
from fairkd_jax.analyses import CompareStage
from fairkd_jax.config import (
    Data,
    EvaluateStage,
    Experiment,
    Mix,
    Plugin,
    Role,
    Rung,
    Stage,
    Study,
    TableStage,
    Teacher,
    Train,
    TrainStage,
    TransferStage,
    ordered,
    update,
)
from fairkd_jax.data import augmentation, mixture, strength
from fairkd_jax.registry import UnknownName
from fairkd_jax.study import chain, decided, inside
from fairkd_jax.study.borrow import borrowed
from fairkd_jax.study.reads import sealed, sealed_alone
from fairkd_jax.train import drawn, loop
from fairkd_jax.train.step import input_of, table_of

NO_DISTILLATION = ({"name": "none"},)


@dataclasses.dataclass(frozen=True)
class Run:
    """One net of an experiment and what is asked about it."""

    role: str  # teacher | baseline | rung | distilled
    experiment: Experiment
    axes: Mapping[str, str]  # axis name -> label of the value
    net: Stage
    evaluations: Mapping[str, Stage]  # "in_domain/test" -> stage
    comparisons: Mapping[str, Stage]  # "teacher", or the name of one of several -> stage
    inside: Mapping[str, Stage]  # "attention/teacher", "probe" -> stage
    how: Role = Role()
    debias: Plugin = dataclasses.field(default_factory=dict)
    distill: tuple[Plugin, ...] = NO_DISTILLATION
    teachers: Mapping[str, "Run"] = dataclasses.field(default_factory=dict)  # "": it has no name
    baseline: "Run | None" = None
    rungs: "tuple[Run, ...]" = ()  # between the teachers and this one, which the last has taught
    called: str = ""  # the name of a teacher that has one, the place of a rung

    @property
    def model(self) -> Plugin:
        """The net's model config."""
        return self.how.model

    @property
    def augmented_as(self) -> str:
        """The role whose augmentations its data have: a rung's are those of a distilled net."""
        return self.role if self.role in augmentation.ROLES else "distilled"

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


def _taught(
    experiment: Experiment, net: Rung, teachers: Mapping[str, Stage], place: int = 0
) -> Stage:
    """A net under teachers: live where their inside is read or inputs change, else tables.

    It starts from weights of a teacher where the experiment says so; so does, then, a first
    stage that a method trains like it. `place` is that of a rung, 0 for the student.
    """
    methods = [registry.build("distill", d) for d in net.distill]
    method = registry.build("debias", net.debias)
    mix = dataclasses.replace(net.mix, teachers=chain.weights(net.mix.teachers, teachers))
    base = _train(experiment, "distilled", net, net.debias, place * chain.APART)
    stage = base.change({"distill": net.distill, "mix": mix})
    reads = {m.reads for m in methods}
    changes = drawn.changes_inputs(base.config.data, method)
    for name, teacher in teachers.items():
        if "inside" in reads or (changes and reads != {"nothing"}):
            stage = stage.hang(**{input_of(name): teacher})
        elif "logits" in reads:
            table = Stage("table", TableStage(("logits",), experiment.data.split), {"net": teacher})
            stage = stage.hang(**{table_of(input_of(name)): table})
    if net.transfer:
        stage = stage.hang(init=_start(stage, net, teachers, experiment.data))
    for distiller in methods:
        stage = distiller.stages(stage)
    return method.stages(stage)


def _start(stage: Stage, net: Rung, teachers: Mapping[str, Stage], data: Data) -> Stage:
    """The weights of a teacher that a net starts from.

    Raises UnknownName where it is not said which of several.
    """
    name = net.transfer.teacher or (next(iter(teachers)) if len(teachers) == 1 else "")
    if name not in teachers:
        raise UnknownName(name, "teacher in transfer.teacher:", filter(None, teachers))
    transfer = dataclasses.replace(net.transfer, teacher="")  # what it is called changes nothing
    config = TransferStage(data, net.model, transfer, stage.config.seed)
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

    planned = [*experiments(study)]
    seed = len(planned) // max(study.seeds, 1)  # so many are of one seed
    for i, (experiment, axes) in enumerate(planned):
        twins = _twins(experiment, planned[(i + seed) % len(planned)][0])
        *rungs, last = chain.taught(experiment)
        asked, student = _teachers(experiment), experiment.student
        trained = _train(experiment, "baseline", student, experiment.debias)
        alone = registry.build("debias", experiment.debias).stages(trained)
        make = functools.partial(_run, experiment, axes)
        teachers = {
            k: add(make("teacher", *rest, called=k, twin=twins.get(k))) for k, rest in asked.items()
        }
        baseline = add(make("baseline", alone, student, experiment.debias, teachers=teachers))
        links, before = {"teachers": teachers}, ()
        by = {name: net for name, (net, *_) in asked.items()}
        for place, rung in enumerate(rungs, 1):
            links |= {"distill": rung.distill, "called": str(place), "rungs": before}
            net = _taught(experiment, rung, by, place)
            run = add(make("rung", net, rung, rung.debias, **links))
            before, by = (*before, run), {"": run.net}
        links |= {"distill": last.distill, "called": "", "rungs": before, "baseline": baseline}
        add(make("distilled", _taught(experiment, last, by), last, last.debias, **links))
    return list(found.values())


def _twins(experiment: Experiment, other: Experiment) -> dict[str, Stage]:
    """By name the teachers of the next seed's experiment, where they are to be compared.

    Raises ValueError where there is no other seed.
    """
    if not (experiment.compare.first and experiment.compare.other_seed):
        return {}
    if other.seed == experiment.seed:
        raise ValueError(
            "compare.other_seed compares teachers of two seeds: ask for 2 seeds, or more"
        )
    return {k: sealed(net.remade(_covering)) for k, (net, *_) in _teachers(other).items()}


def _run(
    experiment: Experiment,
    axes: Mapping[str, str],
    role: str,
    net: Stage,
    how: Role,
    debias: Plugin,
    teachers: Mapping[str, Run] = types.MappingProxyType({}),
    twin: Stage | None = None,
    **rest: Any,
) -> Run:
    net = sealed(net.remade(_covering))
    named = {k: teacher.net for k, teacher in teachers.items()}
    return Run(
        role=role,
        experiment=experiment,
        axes=axes,
        net=net,
        evaluations=_evaluations(experiment, net, how.train.validation),
        comparisons=_comparisons(experiment, teachers, net),
        inside=inside.stages(experiment, named, net, twin),
        how=how,
        debias=debias,
        teachers=teachers,
        **rest,
    )


def _covering(stage: Stage) -> Stage:
    """The stage with tables that tell of the extra examples too that it draws."""
    data, inputs = getattr(stage.config, "data", None), stage.inputs
    if data and (added := mixture.finite(data.augment)):
        inputs = inputs | {
            name: one.change({"augment": added})
            for name, one in inputs.items()
            if one.kind == "table" and one.config.split == data.split
        }
    return dataclasses.replace(stage, inputs=inputs)


def _evaluations(experiment: Experiment, net: Stage, validation: str) -> dict[str, Stage]:
    """Of the net as it is, or of what is decided from it: the net itself is the same."""
    inputs, decide = {"net": net}, {}
    if experiment.decide is not None:
        registry.build("decide", experiment.decide)
        inputs[decided.CALIBRATION] = decided.calibration(net, validation)
        decide = {"decide": experiment.decide, "seed": experiment.seed}
    return {
        f"{name}/{split}": sealed_alone(
            Stage("evaluate", EvaluateStage(e.set, split, e.batch_size, **decide), inputs)
        )
        for name, e in experiment.evaluate.items()
        for split in e.splits
    }


def _comparisons(
    experiment: Experiment, teachers: Mapping[str, Run], net: Stage
) -> dict[str, Stage]:
    """One for each teacher of a student; none where no layers are named."""
    compare = CompareStage(dataclasses.replace(experiment.compare, other_seed=False))
    return {
        name or "teacher": sealed_alone(
            Stage("compare", compare, {"first": teacher.net, "second": net})
        )
        for name, teacher in teachers.items()
        if experiment.compare.first
    }


def stages(all_runs: list[Run]) -> list[Stage]:
    """Every stage once, after its inputs."""
    asked = (
        (r.net, *r.evaluations.values(), *r.comparisons.values(), *r.inside.values())
        for r in all_runs
    )
    return [*ordered(itertools.chain.from_iterable(asked)).values()]


def smoke(study: Study) -> Study:
    """The study shrunk to seconds: one seed, a few steps of small batches, every stage kind."""
    asks = ("compare", "attention", "probe", "stitch", "circuit")
    overrides: dict[str, Any] = {f"{ask}.examples": 16 for ask in asks}
    overrides |= {"compare.other_seed": False, "stitch.fit_examples": 16}
    overrides |= {"circuit.bootstrap": 20, "circuit.random": 2}
    asked = study.experiment
    roles: dict[str, Role] = {"student": asked.student}
    for name, how in teachers_of(asked).items():
        if not how.stage:
            roles[f"teachers.{name}" if name else "teacher"] = how
    overrides |= {f"{role}.train": _short(how.train) for role, how in roles.items()}
    overrides["rungs"] = _short_rungs(asked.rungs)
    experiment = update(asked, overrides)
    axes = {
        k: tuple(_short_value(k, value) for value in values) for k, values in study.axes.items()
    }
    name = f"{study.name}-smoke"
    return dataclasses.replace(study, name=name, seeds=1, experiment=experiment, axes=axes)


def _short(train: Train) -> Train:
    small = {"batch_size": 16, "log_every": 2, "checkpoint_every": 2, "epochs": 0.0}
    few = {"steps": min(train.steps, 4), "eval_every": min(train.eval_every, 2)}
    return dataclasses.replace(train, **small, **few)


def _short_rungs(rungs: Any) -> tuple[Rung, ...]:
    return tuple(
        dataclasses.replace(one, rounds=min(one.rounds, 2), train=one.train and _short(one.train))
        for one in update(Experiment(), {"rungs": rungs}, "axes").rungs
    )


def _short_value(axis: str, value: Any) -> Any:
    """The value of an axis; where it sets rungs, these are short too."""
    changed = changes(axis, value)
    if "rungs" not in changed:
        return value
    return {"label": label(value), **changed, "rungs": _short_rungs(changed["rungs"])}
