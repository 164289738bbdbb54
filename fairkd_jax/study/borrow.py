"""A teacher from another work folder: its net as it was trained there, copied into this one.

What counts is what its files hold: a folder may be moved, and nothing is done anew. The net reads
the views of this study, which must encode as those did on which it was trained.
"""

import dataclasses

from fairkd_jax import buckets, files, registry
from fairkd_jax.config import NETS, BorrowStage, Experiment, Plugin, Role, Stage, Teacher
from fairkd_jax.data import pipeline
from fairkd_jax.registry import UnknownName
from fairkd_jax.study import stored
from fairkd_jax.types import Path


def borrowed(experiment: Experiment, name: str, teacher: Teacher) -> tuple[Stage, Role, Plugin]:
    """What copies the net, how it was trained there, and by which debiasing method.

    Raises ValueError for a stage that is not there or no train stage, and for options of training;
    files.Damaged for one that is not finished or not as it was written.
    """
    place = f"teachers.{name}"
    if not (teacher.stage and teacher.workdir):
        raise ValueError(
            f"{place} has stage = {teacher.stage!r} and workdir = {teacher.workdir!r}: a finished "
            "stage of another work folder needs both"
        )
    alone = Teacher(stage=teacher.stage, workdir=teacher.workdir)
    if said := [f for f in vars(teacher) if getattr(teacher, f) != getattr(alone, f)]:
        raise ValueError(
            f"{place}.stage = {teacher.stage!r} is taken as it was trained, so {', '.join(said)} "
            "would have no effect: leave them out"
        )
    workdir = files.whole(buckets.path(teacher.workdir))
    there = stored.read(workdir, _whole(teacher.stage, workdir, place))
    if there.kind not in NETS:
        raise ValueError(
            f"{place}.stage = {teacher.stage!r} of {workdir} is of kind {there.kind!r}, and only "
            f"train and refit stages hold nets: {', '.join(_trained(workdir)) or 'there are none'}"
        )
    folder = stored.require(workdir / "stages" / there.identity, f"{place}.stage")
    config, facts, trained = there.config, files.read_json(folder / stored.NET), there
    while trained.kind != "train":
        trained = trained.inputs["net"]
    model = facts.get("model", config.model)
    copy = BorrowStage(experiment.data, model, there.identity, str(workdir))
    return (
        Stage("borrow", copy),
        Role(config.model, trained.config.optim, trained.config.train),
        config.debias,
    )


def _whole(stage: str, workdir: Path, place: str) -> str:
    """The whole identity of a stage that is named by its first digits."""
    if not any((workdir / "stages").glob("*")):
        raise FileNotFoundError(
            f"{place}.workdir = {workdir} holds no stages: is it a work folder?"
        )
    try:
        return stored.find(workdir, stage)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _trained(workdir: Path) -> list[str]:
    every = [stored.read(workdir, p.name) for p in sorted((workdir / "stages").glob("*"))]
    return [one.identity for one in every if one.kind in NETS]


def source(stage: Stage) -> Path:
    """The folder of the stage that a borrowed net was trained in."""
    return buckets.path(stage.config.workdir) / "stages" / stage.config.stage


def products(stage: Stage) -> dict[str, Path]:
    """The files of the net, by what they are called in a stage's folder."""
    folder = source(stage)
    there = files.read_sealed(folder / stored.DONE)["products"]
    return {n: folder / n for n in there if n == stored.NET or n.startswith("net/")}


def copy(stage: Stage, folder: Path) -> None:
    """Raises files.Changed, naming the file, where a copy is not what was planned."""
    for name, path in products(stage).items():
        to = folder / name
        files.make(to.parent)
        with path.open("rb") as read, to.open("wb") as write:
            while part := read.read(2**24):
                write.write(part)
        if files.digest(to) != stage.reads[name]:
            raise files.Changed(f"{path} changed while it was copied. Launch the study again")


def check(stage: Stage) -> None:
    """Raises UnknownName and ValueError for a net of other views or other classes than the study's.

    Without these it would read other inputs than it was trained on, or mean other labels.
    """
    folder, data = source(stage), stage.config.data
    facts, trained = files.read_json(folder / stored.NET), stored.read(*_split(folder)).config.data
    view, opened = facts["view"], pipeline.open_data(data)
    told = f"There, data.views.{view} = {dict(trained.views[view])}"
    if view not in data.views:
        place = f"view, in data.views, that the net in {folder} reads:"
        raise UnknownName(view, place, data.views, f". {told}")
    ours = opened.facts[view].get("identity", "")
    if facts["identity"] != ours:
        raise ValueError(
            f"the net in {folder} reads view {view!r} as encoded by {facts['identity']}, and here "
            f"it is encoded by {ours}. {told}; launch/export.py writes its tokenizer into a "
            f"folder, for data.views.{view}.tokenizer"
        )
    labels = facts.get("labels") or registry.build("sets", trained.set).info.label_names
    mine = opened.dataset.info.label_names
    if [*labels] != [*mine]:
        raise ValueError(
            f"the net in {folder} tells {[*labels]} apart, in this order, and the data of this "
            f"study have {[*mine]}: its answers would mean other labels"
        )


def _split(folder: Path) -> tuple[Path, str]:
    return folder.parent.parent, folder.name


def sized(model: Plugin, net: object) -> Plugin:
    """A net's config without the published weights that it started from, its sizes said."""
    architecture = net.architecture
    sizes = {f.name: getattr(architecture, f.name) for f in dataclasses.fields(architecture)}
    return {"name": model["name"], "view": net.view, **sizes}
