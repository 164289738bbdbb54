"""Runs a study on this machine: checks all of it, then its stages one by one, then the report."""

import contextlib
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import pandas
from jax.sharding import Mesh

from fairkd_jax import registry
from fairkd_jax.config import SELECTION_RULES, Stage, Study, as_dict
from fairkd_jax.data import pipeline
from fairkd_jax.evaluation.sums import label_map
from fairkd_jax.models import transfer
from fairkd_jax.registry import UnknownName
from fairkd_jax.study import plan, stage
from fairkd_jax.train import log, loop
from fairkd_jax.train.step import table_of

PACKAGES = ("fairkd_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def check(study: Study) -> list[plan.Run]:
    """The planned runs, once everything that can be known to fail has been tried.

    Raises UnknownName and ValueError before any compute, naming value, place and choices.
    """
    if study.seeds < 1:
        raise ValueError(f"seeds = {study.seeds}: a study needs at least one")
    planned = plan.runs(study)
    tried = set()
    for one in plan.stages(planned):
        if one.kind == "train":
            _check_train(one, tried)
        elif one.kind == "transfer":
            nets = (loop.net_of(s.config.data, s.config.model) for s in (one.inputs["net"], one))
            transfer.plan(*nets, one.config.transfer)
        elif one.kind == "evaluate":
            key = json.dumps([as_dict(plan.data_of(one)), as_dict(one.config)], sort_keys=True)
            if key not in tried:
                tried.add(key)
                _check_evaluation(one)
    return planned


def _check_train(one: Stage, tried: set[str]) -> None:
    """Stages that differ in their seed alone are tried once."""
    config = one.change({"seed": 0}).config
    key = json.dumps(as_dict(config), sort_keys=True)
    if key in tried:
        return
    tried.add(key)
    select = config.train.select
    if select not in SELECTION_RULES:
        raise UnknownName(select, "train.select", SELECTION_RULES)
    opened = pipeline.open_data(config.data)
    if select != "last" or config.train.eval_every:
        opened.dataset.require(config.train.validation)
    teacher = one.inputs.get("teacher")
    nets = {"teacher": loop.net_of(teacher.config.data, teacher.config.model)} if teacher else {}
    tabled = {"teacher": None} if table_of("teacher") in one.inputs else {}
    loop.check(config, nets | tabled)


def _check_evaluation(one: Stage) -> None:
    opened = pipeline.open_data(plan.data_of(one))
    source = opened.source(one.config.split, one.config.set)
    label_map(opened.dataset.info.label_names, source.split.info)


def table_of_stages(planned: list[plan.Run], workdir: pathlib.Path) -> str:
    """What `--dry_run` prints: stages by kind, model and method; done, partial, missing, shared."""
    users = Counter(s.identity for run in planned for s in plan.stages([run]))
    rows = []
    for one in plan.stages(planned):
        train = one.kind == "train"
        row = {
            "stage": one.kind,
            "model": plan.model_name(one.config.model) if hasattr(one.config, "model") else "",
            "debias": one.config.debias["name"] if train else "",
            "distill": "+".join(d["name"] for d in one.config.distill) if train else "",
            "reads": ", ".join(sorted(one.inputs)),
        }
        state = {s: int(stage.state_of(one, workdir) == s) for s in stage.STATES}
        rows.append(row | state | {"shared": int(users[one.identity] > 1)})
    frame = pandas.DataFrame(rows)
    numbers = [*stage.STATES, "shared"]
    table = frame.groupby([c for c in frame if c not in numbers], sort=False).sum().reset_index()
    total = ", ".join(f"{frame[s].sum()} {s}" for s in stage.STATES)
    return f"{table.to_string(index=False)}\n{len(planned)} runs, {len(frame)} stages: {total}"


def run(study: Study, workdir: pathlib.Path, mesh: Mesh) -> None:
    """All stages of a study that are not done yet, with a bar over them; then `study.json`."""
    start = time.perf_counter()
    planned = check(study)
    write_study(study, planned, workdir, seconds=None)
    run_stages(planned, workdir, mesh, study.name)
    write_study(study, planned, workdir, seconds=round(time.perf_counter() - start, 1))


def run_stages(planned: list[plan.Run], workdir: pathlib.Path, mesh: Mesh, name: str) -> None:
    """The stages of some runs, in order; raises `loop.Interrupted` where SIGTERM asked to stop."""
    ordered = plan.stages(planned)
    todo = [s for s in ordered if stage.state_of(s, workdir) != "done"]
    with (
        stop_on_sigterm() as stopping,
        log.progress(
            total=len(ordered), initial=len(ordered) - len(todo), desc=name, unit="stage"
        ) as bar,
    ):
        place = stage.Place(workdir, mesh, stopping)
        for one in todo:
            if loop.agree(stopping):
                raise loop.Interrupted(f"stopped before stage {one.identity}")
            stage.run(one, place)
            bar.update()


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[Any]:
    """Within it SIGTERM does not kill: the yielded function turns True, and runs save and stop."""
    asked = []
    previous = signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, previous)


def write_study(
    study: Study, planned: list[plan.Run], workdir: pathlib.Path, seconds: float | None
) -> None:
    """`study.json`: what the report needs to know beside the stages' results; process 0 writes."""
    if jax.process_index():
        return
    workdir.mkdir(parents=True, exist_ok=True)
    config = as_dict(study)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    old = workdir / "study.json"
    before = json.loads(old.read_text()) if old.exists() else {}
    if before.get("config_hash") not in (None, digest):
        before = {}
    stage.write_json(
        old,
        {
            "study": study.name,
            "command": " ".join(["python", *sys.argv]),
            "versions": {"python": platform.python_version()}
            | {p: importlib.metadata.version(p) for p in PACKAGES},
            "device": f"{jax.devices()[0].device_kind} x{jax.device_count()}",
            "config_hash": digest,
            "config": config,
            "selection": study.experiment.student.train.select,
            "headline": study.headline,
            "seconds": before.get("seconds") or seconds,
            "data": _data(planned),
            "runs": [_row(r) for r in planned],
            "ledger": _ledger(planned, workdir),
        },
    )


def _row(run: plan.Run) -> dict[str, Any]:
    experiment, distilled = run.experiment, run.role == "distilled"
    model = run.model
    return {
        "run": run.name,
        "role": run.role,
        "debias": run.debias["name"],
        "debias_options": run.debias,
        "sees_attributes": registry.build("debias", run.debias).sees_attributes,
        "distill": "+".join(d["name"] for d in run.distill),
        "distill_options": run.distill,
        "model": plan.model_name(model),
        "parameters": loop.net_of(experiment.data, model).num_parameters(),
        "teacher_model": plan.model_name(experiment.teacher.model) if distilled else "",
        "teacher_debias": experiment.debias["name"] if distilled else "",
        "seed": experiment.seed,
        "axes": run.axes,
        "selection": (
            experiment.teacher if run.role == "teacher" else experiment.student
        ).train.select,
        "stage": run.net.identity,
        "evaluations": {k: v.identity for k, v in run.evaluations.items()},
        "comparisons": {k: v.identity for k, v in run.comparisons.items()},
        "teacher_run": run.teacher.name if run.teacher else "",
        "baseline_run": run.baseline.name if run.baseline else "",
    }


def _data(planned: list[plan.Run]) -> dict[str, Any]:
    """Examples by group of every split that is trained on or scored."""
    found: dict[str, Any] = {}
    for run in planned:
        opened = pipeline.open_data(run.experiment.data)
        data, train = run.experiment.data, run.experiment.student.train
        splits = [("in_domain", data.split, None)]
        if train.select != "last":
            splits.append(("in_domain", train.validation, None))
        splits += [
            (name, split, e.set)
            for name, e in run.experiment.evaluate.items()
            for split in e.splits
        ]
        for name, split, spec in splits:
            if split in found.get(name, {}):
                continue
            source = opened.source(split, spec)
            entry = found.setdefault(name, {})
            entry |= {"licence": source.split.info.licence, "source": source.split.info.source}
            entry[split] = {
                "group_names": source.split.info.group_names,
                "counts": source.split.counts().tolist(),
            }
    return found


def _ledger(planned: list[plan.Run], workdir: pathlib.Path) -> list[dict[str, Any]]:
    """What each finished stage cost."""
    rows = []
    for one in plan.stages(planned):
        path = workdir / "stages" / one.identity / "done"
        if path.exists():
            rows.append({"stage": one.identity, "kind": one.kind} | json.loads(path.read_text()))
    return rows
