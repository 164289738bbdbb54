"""Runs one stage in its folder `stages/<identity>/`; the file `done`, written last, closes it."""

import dataclasses
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from fairkd_jax import sharding
from fairkd_jax.config import KINDS as STAGE_KINDS
from fairkd_jax.config import Stage, as_dict, parse
from fairkd_jax.data import pipeline
from fairkd_jax.data.tables import read_table, write_table
from fairkd_jax.evaluation import fairness
from fairkd_jax.evaluation.evaluate import evaluate, predict_columns
from fairkd_jax.evaluation.sums import Sums
from fairkd_jax.models.net import Net
from fairkd_jax.models.transfer import transfer
from fairkd_jax.registry import UnknownName
from fairkd_jax.representation.compare import compare_nets
from fairkd_jax.study.plan import data_of
from fairkd_jax.train import checkpoint, loop
from fairkd_jax.train.step import fresh_net
from fairkd_jax.types import Batch

STATES = ("done", "partial", "missing")
NET_FILE = "net.json"  # which inputs a stage's net was trained on
KEPT_NETS = 8  # trained nets kept in memory: the next stage usually asks for the last ones


@dataclasses.dataclass
class Place:
    """Where stages run: a folder, a mesh, and who may stop them."""

    workdir: pathlib.Path
    mesh: Mesh
    stopping: Callable[[], bool] = lambda: False
    nets: dict[str, tuple[Net, Any]] = dataclasses.field(default_factory=dict)

    def folder(self, stage: Stage) -> pathlib.Path:
        """The stage's own folder."""
        return self.workdir / "stages" / stage.identity

    def put(self, batch: Any) -> Any:
        """A host batch on the devices."""
        return sharding.put_batch(batch, self.mesh)

    def net(self, stage: Stage) -> tuple[Net, Any]:
        """The net that a train or transfer stage left, and its variables on the devices.

        Raises ValueError where the data now encode inputs otherwise than in its training.
        """
        if stage.identity not in self.nets:
            net = loop.net_of(stage.config.data, stage.config.model)
            _check_inputs(net, self.folder(stage))
            shapes = net.variable_shapes()
            target = jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                shapes,
                sharding.state_shardings(shapes, self.mesh),
            )
            self.nets[stage.identity] = (
                net,
                checkpoint.load_net(self.folder(stage) / "net", target),
            )
            while len(self.nets) > KEPT_NETS:
                del self.nets[next(iter(self.nets))]
        return self.nets[stage.identity]


def state_of(stage: Stage, workdir: pathlib.Path) -> str:
    """ "done", "partial" (it goes on from there) or "missing"."""
    folder = workdir / "stages" / stage.identity
    return "done" if (folder / "done").exists() else "partial" if folder.exists() else "missing"


def read(workdir: pathlib.Path, identity: str) -> Stage:
    """The stage that a folder was made for, with its inputs.

    Raises UnknownName where there is no such stage, ValueError where its folder was altered.
    """
    path = workdir / "stages" / identity / "config.json"
    if not path.exists():
        there = [p.name for p in (workdir / "stages").glob("*")]
        raise UnknownName(identity, f"stage in {workdir}:", there)
    content = json.loads(path.read_text())
    stage = Stage(
        content["kind"],
        parse(STAGE_KINDS[content["kind"]], content["config"], str(path)),
        {name: read(workdir, other) for name, other in content["inputs"].items()},
    )
    if stage.identity != identity:
        raise ValueError(f"{path} describes stage {stage.identity}, not {identity}: it was altered")
    return stage


def run(stage: Stage, place: Place) -> None:
    """Does the stage unless it is done. Raises what its kind raises, with the stage's folder."""
    if state_of(stage, place.workdir) == "done":
        return
    folder = place.folder(stage)
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        inputs = {k: v.identity for k, v in stage.inputs.items()}
        write_json(
            folder / "config.json",
            {"kind": stage.kind, "config": as_dict(stage.config), "inputs": inputs},
        )
    _wait(f"{stage.identity} begins")
    start = time.perf_counter()
    examples = KINDS[stage.kind](stage, folder, place)
    _wait(f"{stage.identity} ends")
    if jax.process_index() == 0:
        seconds = round(time.perf_counter() - start, 3)
        write_json(folder / "done", {"seconds": seconds, "examples": examples})
    _wait(f"{stage.identity} is done")


def _train(stage: Stage, folder: pathlib.Path, place: Place) -> int:
    inputs = loop.Inputs(
        teachers={k: place.net(stage.inputs[k]) for k in ("teacher",) if k in stage.inputs},
        tables={
            k: read_table(place.folder(s) / "table")
            for k, s in stage.inputs.items()
            if s.kind == "table"
        },
        start=place.net(stage.inputs["init"])[1] if "init" in stage.inputs else None,
    )
    train = stage.config.train
    watch = train.select != "last" or train.eval_every
    loop.run(
        stage.config,
        folder,
        place.mesh,
        inputs,
        validation=loop.Validation(lambda v: _validate(stage, place, v)) if watch else None,
        stopping=place.stopping,
        name=f"{stage.config.debias['name']} {stage.identity[:6]}",
    )
    _write_inputs(loop.net_of(stage.config.data, stage.config.model), folder)
    checkpoint.remove(folder / "checkpoints")
    return train.steps * train.batch_size


def _transfer(stage: Stage, folder: pathlib.Path, place: Place) -> int:
    config = stage.config
    net = loop.net_of(config.data, config.model)
    fresh = fresh_net(net, place.mesh, np.uint32(config.seed))
    teacher = place.net(stage.inputs["net"])
    variables, done = transfer(*teacher, net, fresh, config.transfer)
    for line in done.lines():  # not as info, which launchers do not show
        logging.warning("transfer %s: %s", stage.identity[:6], line)
    if jax.process_index() == 0:
        write_json(folder / "transfer.json", done.record())
    checkpoint.save_net(folder / "net", variables)
    _write_inputs(net, folder)
    return 0


def _write_inputs(net: Net, folder: pathlib.Path) -> None:
    if jax.process_index() == 0:
        write_json(folder / NET_FILE, {"view": net.view, "identity": net.identity})


def _check_inputs(net: Net, folder: pathlib.Path) -> None:
    """Raises ValueError unless the net reads what it was trained on."""
    path = folder / NET_FILE
    trained = json.loads(path.read_text()) if path.exists() else {}
    if trained.get("identity", net.identity) != net.identity:
        raise ValueError(
            f"the net in {folder} was trained on view {trained['view']!r} as encoded by "
            f"{trained['identity']}, and now it is encoded by {net.identity}: the data or the "
            "tokenizer changed since. Bring them back, or train in another folder"
        )


def _validate(stage: Stage, place: Place, variables: Any) -> tuple[dict[str, float], float | None]:
    train, opened = stage.config.train, pipeline.open_data(stage.config.data)
    net = loop.net_of(stage.config.data, stage.config.model)
    sums, source = _score(net, variables, opened, train.validation, None, 512, place)
    found = fairness.metrics(sums, info=source.split.info)
    value = None if train.select == "last" else fairness.selection_value(train.select, found)
    if value is not None and not math.isfinite(value):
        raise ValueError(f"train.select = {train.select!r} is {value} on {train.validation!r}")
    return {f"{train.validation}/{k}": v for k, v in found.items()}, value


def _batches(source: pipeline.Source, batch_size: int, place: Place) -> Iterator[Batch]:
    """This process's rows of every example, loaded ahead, in batches that divide over the mesh."""
    batches = pipeline.eval_batches(
        source,
        sharding.divisible(batch_size, place.mesh),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return pipeline.prefetched(batches)


def _score(
    net: Net, variables: Any, opened: Any, split: str, spec: Any, batch_size: int, place: Place
) -> tuple[Sums, Any]:
    source = opened.source(split, spec)
    batches = _batches(source, batch_size, place)
    sums = evaluate(
        net,
        variables,
        batches,
        info=source.split.info,
        label_names=opened.dataset.info.label_names,
        put=place.put,
    )
    return sums, source


def _table(stage: Stage, folder: pathlib.Path, place: Place) -> int:
    config, source_stage = stage.config, stage.inputs["net"]
    source = pipeline.open_data(source_stage.config.data).source(config.split)
    batches = _batches(source, config.batch_size, place)
    identity, columns = predict_columns(
        *place.net(source_stage), batches, config.columns, place.put
    )
    if jax.process_index() == 0:
        about = {"net": source_stage.identity, "split": config.split}
        write_table(folder / "table", identity, columns, about)
    return len(source.split)


def _evaluate(stage: Stage, folder: pathlib.Path, place: Place) -> int:
    config, data = stage.config, data_of(stage)
    opened = pipeline.open_data(data)
    sums, source = _score(
        *place.net(stage.inputs["net"]), opened, config.split, config.set, config.batch_size, place
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
        "train_group_counts": train_counts.tolist() if same else None,
        "sums": {
            f.name: np.asarray(getattr(sums, f.name)).tolist() for f in dataclasses.fields(sums)
        },
        "metrics": fairness.metrics(sums, info=info, train_counts=train_counts),
    }
    if jax.process_index() == 0:
        write_json(folder / "result.json", result)
    return len(source.split)


def _compare(stage: Stage, folder: pathlib.Path, place: Place) -> int:
    config, first = stage.config.compare, stage.inputs["first"]
    source = pipeline.open_data(first.config.data).source(config.split)
    batches = _batches(source, config.batch_size, place)
    result = compare_nets(
        *place.net(first),
        *place.net(stage.inputs["second"]),
        batches,
        aligned=np.asarray(source.split.info.aligned).reshape(-1),
        first_taps=config.first,
        second_taps=config.second,
        examples=config.examples,
        put=place.put,
    )
    if jax.process_index() == 0:
        write_json(folder / "result.json", result)
    return len(source.split)


KINDS = {
    "train": _train,
    "transfer": _transfer,
    "table": _table,
    "evaluate": _evaluate,
    "compare": _compare,
}


def write_json(path: pathlib.Path, value: Any) -> None:
    """The whole file or none of it; NaN is written as null, arrays as lists."""
    text = json.dumps(_plain(value), indent=1)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text + "\n")
    os.replace(temporary, path)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray | jax.Array | np.generic):
        return _plain(np.asarray(value).tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _wait(what: str) -> None:
    """All processes meet here, so that none reads what process 0 has yet to write."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
