"""Runs one stage in its folder `stages/<identity>/`, which one process at a time may write.

The file `done`, written last, closes it with the digests of its products: what no longer matches is
named, and the stage is done again.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from fairkd_jax import compiled, files, processes, sharding
from fairkd_jax.config import TABLES, Stage, as_dict
from fairkd_jax.data import pipeline
from fairkd_jax.data.tables import read_table, write_table
from fairkd_jax.evaluation import fairness
from fairkd_jax.evaluation.evaluate import evaluate, predict_columns
from fairkd_jax.evaluation.sums import Sums
from fairkd_jax.models import weights
from fairkd_jax.models.net import Net
from fairkd_jax.models.transfer import transfer
from fairkd_jax.representation import measure
from fairkd_jax.representation.compare import compare_nets
from fairkd_jax.study import borrow, decided, inferred, inside, reads, stored
from fairkd_jax.study.claim import Claim, claimed
from fairkd_jax.study.reads import data_of
from fairkd_jax.train import checkpoint, loop, trackers
from fairkd_jax.train.step import fresh_net, teachers_of
from fairkd_jax.types import Batch, Path

Guard = Callable[[], None]
KEPT_NETS = 8  # trained nets kept in memory: the next stage usually asks for the last ones


@dataclasses.dataclass
class Place:
    """Where stages run: a folder, a mesh, who may stop them, and what must not change meanwhile."""

    workdir: Path
    mesh: Mesh
    stopping: Callable[[], bool] = lambda: False
    watch: Callable[[], None] = lambda: None  # raises where a file that is read has changed
    trackers: tuple[str, ...] = ()  # names of those that are told what training logs
    nets: dict[str, tuple[Net, Any]] = dataclasses.field(default_factory=dict)

    def folder(self, stage: Stage) -> Path:
        """The stage's own folder."""
        return self.workdir / "stages" / stage.identity

    def put(self, batch: Any) -> Any:
        """A host batch on the devices."""
        return sharding.put_batch(batch, self.mesh)

    def net(self, stage: Stage) -> tuple[Net, Any]:
        """The net that a stage left, and its variables on the devices.

        Raises ValueError where its folder does not hold what was written, or where the data now
        encode inputs otherwise than in its training.
        """
        if stage.identity not in self.nets:
            folder = self.folder(stage)
            processes.lead(lambda: str(stored.require(folder, f"stage {stage.identity}")))
            net = loop.net_of(stage.config.data, stage.config.model)
            self.nets[stage.identity] = net, variables_of(net, folder, self.mesh)
            while len(self.nets) > KEPT_NETS:
                del self.nets[next(iter(self.nets))]
        return self.nets[stage.identity]


def variables_of(net: Net, folder: Path, mesh: Mesh) -> Any:
    """The variables of a net in a stage's folder, on the devices.

    Raises ValueError where the net reads other inputs than it was trained on.
    """
    _check_inputs(net, folder)
    shapes = net.variable_shapes()
    target = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        sharding.state_shardings(shapes, mesh),
    )
    return checkpoint.load_net(folder / "net", target)


def run(stage: Stage, place: Place) -> None:
    """Does the stage unless it is done; waits where another process is at it.

    Raises what its kind raises, with the stage's folder, and `processes.Interrupted`.
    """
    if processes.lead(lambda: _closed(stage, place)):
        return
    with claimed(place.folder(stage), place.stopping) as claim:
        if not processes.lead(lambda: _closed(stage, place, say=True)):
            _run(stage, place, claim)


def _closed(stage: Stage, place: Place, say: bool = False) -> bool:
    """Is it done, with its products as they were written?"""
    path, state = place.folder(stage), stored.state_of(stage, place.workdir)
    if say and state == "damaged":
        wrong = "; ".join(stored.unusable(path))
        logging.warning("stage %s is done again, for in %s %s", stage.identity, path, wrong)
    if state == "done":
        stored.refresh(path, stage)
    return state == "done"


def _run(stage: Stage, place: Place, claim: Claim) -> None:
    path, start, before = place.folder(stage), time.perf_counter(), compiled.spent()

    def guard() -> None:
        claim.guard()
        place.watch()

    def begin() -> None:
        stored.clear(path)
        reads.check([stage])
        for name, one in stage.inputs.items():
            stored.require(place.folder(one), f"{name} of stage {stage.identity}")
        files.write_json(path / stored.CONFIG, stored.about(stage))

    def end() -> None:
        guard()
        cost = {"seconds": round(time.perf_counter() - start, 3), "examples": examples}
        stored.close(path, cost | (compiled.spent() - before).told())

    processes.lead(begin)
    examples = KINDS[stage.kind](stage, place, guard)
    processes.meet(f"{stage.identity} ends")
    processes.lead(end)


def _train(stage: Stage, place: Place, guard: Guard) -> int:
    folder = place.folder(stage)
    inputs = loop.Inputs(
        teachers={
            k: place.net(stage.inputs[k])
            for k in teachers_of(stage.config.mix)
            if k in stage.inputs
        },
        tables={
            k: read_table(place.folder(s) / "table")
            for k, s in stage.inputs.items()
            if s.kind in TABLES
        },
        start=place.net(stage.inputs["init"])[1] if "init" in stage.inputs else None,
    )
    train = stage.config.train
    watch = train.select != "last" or train.eval_every
    steps = loop.run(
        stage.config,
        folder,
        place.mesh,
        inputs,
        validation=loop.Validation(lambda v: _validate(stage, place, v)) if watch else None,
        stopping=place.stopping,
        guard=guard,
        trackers=lambda: trackers.started(
            place.trackers, place.workdir, stage.identity, as_dict(stage.config)
        ),
        name=f"{stage.config.debias['name']} {stage.identity[:6]}",
    )
    _write_inputs(stage, folder)
    return steps * train.batch_size


def _transfer(stage: Stage, place: Place, guard: Guard) -> int:
    folder = place.folder(stage)
    config = stage.config
    net = loop.net_of(config.data, config.model)
    seed = sharding.put_replicated(np.uint32(config.seed), place.mesh)
    fresh = fresh_net(net, place.mesh, seed)
    teacher = place.net(stage.inputs["net"])
    variables, done = transfer(*teacher, net, fresh, config.transfer)
    for line in done.lines():  # not as info, which launchers do not show
        logging.warning("transfer %s: %s", stage.identity[:6], line)
    if jax.process_index() == 0:
        files.write_json(folder / "transfer.json", done.record())
    checkpoint.save_net(folder / "net", variables)
    _write_inputs(stage, folder)
    return 0


def _borrow(stage: Stage, place: Place, guard: Guard) -> int:
    processes.lead(lambda: borrow.copy(stage, place.folder(stage)))
    return 0


def _write_inputs(stage: Stage, folder: Path) -> None:
    data, model = stage.config.data, stage.config.model
    net = loop.net_of(data, model)
    labels = pipeline.open_data(data).dataset.info.label_names
    about = {"view": net.view, "identity": net.identity, "labels": labels}
    if weights.split(model)[1]:  # whose sizes stand elsewhere
        about["model"] = borrow.sized(model, net)
    if jax.process_index() == 0:
        files.write_json(folder / stored.NET, about)


def _check_inputs(net: Net, folder: Path) -> None:
    """Raises ValueError unless the net reads what it was trained on."""
    path = folder / stored.NET
    trained = files.read_json(path) if path.exists() else {}
    if trained.get("identity", net.identity) != net.identity:
        raise ValueError(
            f"the net in {folder} was trained on view {trained['view']!r} as encoded by "
            f"{trained['identity']}, and now it is encoded by {net.identity}: the data or the "
            "tokenizer changed since. Bring them back, or train in another folder"
        )


def _validate(
    stage: Stage, place: Place, variables: Any
) -> tuple[dict[str, float], tuple[float, float] | None]:
    train, opened = stage.config.train, pipeline.open_data(stage.config.data)
    net = loop.net_of(stage.config.data, stage.config.model)
    sums, source = _score(net, variables, opened, train.validation, None, 512, place)
    found = fairness.metrics(sums, info=source.split.info)
    scalars = {f"{train.validation}/{k}": v for k, v in found.items()}
    if train.select == "last":
        return scalars, None
    value = fairness.selection_value(train.select, found)
    if not math.isfinite(value):
        raise ValueError(f"train.select = {train.select!r} is {value} on {train.validation!r}")
    return scalars, (value, found["acc_avg"])


def _batches(
    source: pipeline.Source, batch_size: int, place: Place, *nets: Net, in_order: bool = False
) -> Iterator[Batch]:
    """This process's rows of every example, loaded ahead, in batches that divide over the mesh."""
    batches = pipeline.eval_batches(
        source,
        sharding.divisible(batch_size, place.mesh),
        views={net.view for net in nets},
        in_order=in_order,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return pipeline.prefetched(batches)


def _score(
    net: Net,
    variables: Any,
    opened: Any,
    split: str,
    spec: Any,
    batch_size: int,
    place: Place,
    decide: Any = None,
) -> tuple[Sums, Any]:
    source = opened.source(split, spec)
    batches = _batches(source, batch_size, place, net)
    sums = evaluate(
        net,
        variables,
        batches,
        info=source.split.info,
        label_names=opened.dataset.info.label_names,
        put=place.put,
        decide=decide,
    )
    return sums, source


def _table(stage: Stage, place: Place, guard: Guard) -> int:
    folder = place.folder(stage)
    config, source_stage = stage.config, stage.inputs["net"]
    source = pipeline.open_data(source_stage.config.data).drawn(config.split, config.augment)
    net, variables = place.net(source_stage)
    batches = _batches(source, config.batch_size, place, net)
    identity, columns = predict_columns(net, variables, batches, config.columns, place.put)
    if jax.process_index() == 0:
        about = {"net": source_stage.identity, "split": config.split}
        write_table(folder / "table", identity, columns, about)
    return len(source.split)


def _infer(stage: Stage, place: Place, guard: Guard) -> int:
    return inferred.write_columns(stage, place.folder)


def _refit(stage: Stage, place: Place, guard: Guard) -> int:
    _, variables = place.net(stage.inputs["net"])
    variables = inferred.refitted(stage, place.folder, variables, place.mesh)
    checkpoint.save_net(place.folder(stage) / "net", variables)
    _write_inputs(stage, place.folder(stage))
    return 0


def _evaluate(stage: Stage, place: Place, guard: Guard) -> int:
    folder = place.folder(stage)
    config, data = stage.config, data_of(stage)
    opened = pipeline.open_data(data)
    decide, parameters = decided.rule(stage, place.folder)
    net, variables = place.net(stage.inputs["net"])
    sums, source = _score(
        net, variables, opened, config.split, config.set, config.batch_size, place, decide
    )
    info, train = source.split.info, opened.source("train").split
    # Shares of training groups mean something only where the groups are the training's.
    same = config.set is None and info.group_names == train.info.group_names
    train_counts = train.counts() if same else None
    result = {
        "dataset": (config.set or data.set)["name"],
        "split": config.split,
        "group_names": info.group_names,
        "label_names": info.label_names,
        "attribute_names": info.attribute_names,
        "aligned": info.aligned,
        "group_counts": source.split.counts().tolist(),
        "subpopulations": info.subpopulations,
        "subpopulation_counts": source.split.member_counts().tolist(),
        "train_group_counts": train_counts.tolist() if same else None,
        "sums": {
            f.name: np.asarray(getattr(sums, f.name)).tolist() for f in dataclasses.fields(sums)
        },
        "metrics": fairness.metrics(sums, info=info, train_counts=train_counts),
    }
    if decide:
        result["decided_by"] = parameters
    if jax.process_index() == 0:
        files.write_json(folder / "result.json", result)
    return len(source.split)


def _compare(stage: Stage, place: Place, guard: Guard) -> int:
    folder = place.folder(stage)
    config, first = stage.config.compare, stage.inputs["first"]
    source = pipeline.open_data(first.config.data).source(config.split, config.set)
    nets = place.net(first), place.net(stage.inputs["second"])
    # the first of each kind are compared, and these are to be no shorter than others
    both = (net for net, _ in nets)
    batches = _batches(source, config.batch_size, place, *both, in_order=True)
    result = compare_nets(
        *nets[0],
        *nets[1],
        batches,
        aligned=np.asarray(source.split.info.aligned).reshape(-1),
        first_taps=config.first,
        second_taps=config.second,
        examples=config.examples,
        put=place.put,
        measures=measure.build(config.measures),
    )
    if jax.process_index() == 0:
        files.write_json(folder / "result.json", result)
    return len(source.split)


def _inside(stage: Stage, place: Place, guard: Guard) -> int:
    config, data = getattr(stage.config, stage.kind), data_of(stage)
    nets = {name: place.net(one) for name, one in stage.inputs.items()}
    read = [net for net, _ in nets.values()]
    opened = pipeline.open_data(data)
    source = inside.source_of(stage.kind, config, opened, read)
    batches = [
        _batches(one, config.batch_size, place, *read, in_order=True)
        for one in (*inside.also_read(config, opened), source)
    ]
    seen = inside.seen(opened, source)
    result = inside.RESULTS[stage.kind](config, nets, *batches, seen, place.put)
    if jax.process_index() == 0:
        files.write_json(place.folder(stage) / "result.json", result)
    return len(source.split)


KINDS = {
    "train": _train,
    "transfer": _transfer,
    "borrow": _borrow,
    "table": _table,
    "infer": _infer,
    "refit": _refit,
    "evaluate": _evaluate,
    "compare": _compare,
    **dict.fromkeys(inside.RESULTS, _inside),
}
