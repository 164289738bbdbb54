"""What a stage read: the content of the files that its config names, as part of its identity.

So is the code of plugins from outside (`sources.py`). Nothing else in the project compares files. A
stage holds digests by name; where the files lie is asked of its config each time.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from fairkd_jax import files, registry, sources
from fairkd_jax.config import Data, Plugin, Stage, TrainStage, ordered
from fairkd_jax.files import Changed
from fairkd_jax.models import weights
from fairkd_jax.study import borrow
from fairkd_jax.types import Path

CODE = "code "  # how names of files of code begin


def sealed(stage: Stage) -> Stage:
    """The stage, and its inputs, with the digests of what they read now.

    Raises what a plugin raises for options that cannot be, and OSError for what cannot be read.
    """
    return stage.remade(sealed_alone)


def sealed_alone(stage: Stage) -> Stage:
    """The stage with the digests of what itself reads now; its inputs stay as they are."""
    found = {name: files.digest(path) for name, path in paths(stage).items()}
    return dataclasses.replace(stage, reads=found)


def forgotten(stage: Stage) -> Stage:
    """The stage as it is asked for, whatever the files hold."""
    return stage.remade(lambda one: dataclasses.replace(one, reads={}))


def paths(stage: Stage) -> dict[str, Path]:
    """Where the files lie that a stage itself reads, by name."""
    return dict(KINDS[stage.kind](stage))


def check(stages: Iterable[Stage]) -> None:
    """Raises Changed, naming the file, where one is not what these stages and their inputs read."""
    for stage in ordered(stages).values():
        for name, path in paths(stage).items():
            try:
                found = files.digest(path)
            except FileNotFoundError:
                raise Changed(
                    f"{path} ({name}) is gone, and stage {stage.identity} needs it"
                ) from None
            if name not in stage.reads or found != stage.reads[name]:
                raise Changed(
                    f"{path} ({name}) changed since stage {stage.identity} was planned or done. "
                    "Launch the study again: what depends on the file is then done anew"
                )


def watch(stages: Iterable[Stage]) -> Callable[[], None]:
    """A check, quick enough to be made often, that no file of these stages has changed since."""
    wanted = {path: stage.reads[name] for stage in stages for name, path in paths(stage).items()}

    def check() -> None:
        for path, digest in wanted.items():
            if not path.exists() or files.digest(path) != digest:
                raise Changed(
                    f"{path} changed while the study runs, so it stops here. Launch it again: what "
                    "depends on the file is then done anew, the rest is kept"
                )

    return check


Files = Iterator[tuple[str, Path]]


def _code(room: str, spec: Plugin) -> Files:
    for module, path in sources.files_of(registry.plugin(room, spec.get("name", ""))).items():
        yield f"{CODE}{module}", path


def _split(spec: Plugin, *splits: str) -> Files:
    yield from _code("sets", spec)
    for key in dict.fromkeys(splits):
        yield from _of(f"{spec['name']} {key}", _set(spec).reads(key))


def _of(place: str, found: Mapping[str, Path]) -> Files:
    for name, path in found.items():
        yield f"{place}: {name}", path


def _set(spec: Plugin) -> Any:
    return registry.build("sets", spec)


def _data(data: Data, *splits: str) -> Files:
    """Splits, the one that views are fitted on, and what views read."""
    yield from _split(data.set, "train", *splits)
    for name, spec in data.views.items():
        yield from _code("views", spec)
        yield from _of(f"view {name}", registry.build("views", spec).reads())
    yield from _augment(data.augment)


def _augment(specs: Mapping[str, Plugin]) -> Files:
    for name, spec in specs.items():
        yield from _code("augment", spec)
        yield from _of(f"augment {name}", registry.build("augment", spec).reads())


def _net(model: Plugin) -> Files:
    """The code of an architecture, and the weights that it starts from."""
    yield from _code("models", model)
    if start := weights.split(model)[1]:
        yield from _of("weights", weights.find(start.pretrained).reads())


def _train(stage: Stage) -> Files:
    config: TrainStage = stage.config
    watched = config.train.select != "last" or config.train.eval_every
    splits = (config.data.split, *((config.train.validation,) if watched else ()))
    yield from _data(config.data, *splits)
    yield from _net(config.model)
    yield from _code("debias", config.debias)
    for spec in config.distill:
        yield from _code("distill", spec)


def _transfer(stage: Stage) -> Files:
    yield from _data(stage.config.data)
    yield from _net(stage.config.model)


def _borrow(stage: Stage) -> Files:
    yield from _data(stage.config.data)
    yield from _code("models", stage.config.model)
    yield from borrow.products(stage).items()


def _table(stage: Stage) -> Files:
    yield from _split(data_of(stage).set, stage.config.split)
    yield from _augment(stage.config.augment)


def _infer(stage: Stage) -> Files:
    spec = stage.config.infer
    yield from _data(stage.config.data, stage.config.data.split)
    yield from _code("infer", spec)
    yield from _of(f"infer {spec['name']}", registry.build("infer", spec).reads())


def _refit(stage: Stage) -> Files:
    yield from _infer(stage)
    yield from _code("models", stage.config.model)
    yield from _code("debias", stage.config.debias)


def _evaluate(stage: Stage) -> Files:
    yield from _split(stage.config.set or data_of(stage).set, stage.config.split)
    if stage.config.decide:
        yield from _code("decide", stage.config.decide)


def _inside(stage: Stage) -> Files:
    config = getattr(stage.config, stage.kind)
    yield from _split(config.set or data_of(stage).set, config.split)


def _stitch(stage: Stage) -> Files:
    config = stage.config.stitch
    yield from _split(data_of(stage).set, config.fit_split, config.split)


def _compare(stage: Stage) -> Files:
    yield from _inside(stage)
    for spec in stage.config.compare.measures:
        yield from _code("similarity", spec)


def _circuit(stage: Stage) -> Files:
    yield from _inside(stage)
    for spec in stage.config.circuit.scores.values():
        yield from _code("scores", spec)


KINDS = {
    "train": _train,
    "transfer": _transfer,
    "borrow": _borrow,
    "table": _table,
    "infer": _infer,
    "refit": _refit,
    "evaluate": _evaluate,
    "compare": _compare,
    **dict.fromkeys(("attention", "probe"), _inside),
    "stitch": _stitch,
    "circuit": _circuit,
}


def data_of(stage: Stage) -> Data:
    """The data config of the net that a stage is about."""
    return made_by(stage).config.data


def made_by(stage: Stage) -> Stage:
    """The stage that makes the net that a stage is about: itself, or an input."""
    while not hasattr(stage.config, "data"):
        stage = stage.inputs.get("net") or stage.inputs["first"]
    return stage
