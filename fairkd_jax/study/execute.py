"""Runs a study on this machine: checks all of it, then its stages one by one, then the report."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import pandas
from absl import logging
from jax.sharding import Mesh

from fairkd_jax import buckets, files, processes, registry, sharding
from fairkd_jax.config import Experiment, Study, as_dict
from fairkd_jax.data import mixture, pipeline, strength
from fairkd_jax.data.dataset import Split
from fairkd_jax.study import plan, reads, stage, stored
from fairkd_jax.study.check import check
from fairkd_jax.study.claim import claimed
from fairkd_jax.train import log, loop
from fairkd_jax.train.trackers import check as check_trackers
from fairkd_jax.types import Path

DEAF = 20.0  # seconds after which a signal that Python could not handle ends the process
PACKAGES = ("fairkd_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def table_of_stages(planned: list[plan.Run], workdir: Path | str) -> str:
    """What `--dry_run` prints: stages by kind, model and method; done, partial, missing, shared."""
    users = Counter(s.identity for run in planned for s in plan.stages([run]))
    workdir, rows = buckets.path(workdir), []
    for one in plan.stages(planned):
        train = one.kind == "train"
        method = getattr(one.config, "debias", getattr(one.config, "infer", {"name": ""}))
        row = {
            "stage": one.kind,
            "model": plan.model_name(one.config.model) if hasattr(one.config, "model") else "",
            "debias": method["name"],
            "distill": "+".join(d["name"] for d in one.config.distill) if train else "",
            "decide": (getattr(one.config, "decide", None) or {"name": ""})["name"],
            "reads": ", ".join(sorted(one.inputs)),
        }
        found = stored.state_of(one, workdir)
        state = {s: int(found == s) for s in stored.STATES}
        rows.append(row | state | {"shared": int(users[one.identity] > 1)})
    frame = pandas.DataFrame(rows)
    if not frame["decide"].any():
        del frame["decide"]
    numbers = [*stored.STATES, "shared"]
    table = frame.groupby([c for c in frame if c not in numbers], sort=False).sum().reset_index()
    total = ", ".join(f"{frame[s].sum()} {s}" for s in stored.STATES)
    return f"{table.to_string(index=False)}\n{len(planned)} runs, {len(frame)} stages: {total}"


def run(
    study: Study,
    workdir: Path | str,
    mesh: Mesh | None = None,
    given: Mapping[str, Any] | None = None,
    trackers: tuple[str, ...] = (),
) -> Path:
    """All stages of a study that are not done yet, with a bar over them; then `study.json`.

    On all devices, where no mesh says otherwise; `given` as in `check`, `trackers` by name as in
    trackers.py. Returns the study's own folder.
    """
    start = time.perf_counter()
    check_trackers(trackers)
    workdir = files.for_nets(workdir)
    mesh = sharding.make_mesh() if mesh is None else mesh
    planned = check(study, given)
    write_study(study, planned, workdir, seconds=None)
    run_stages(planned, workdir, mesh, study.name, trackers)
    seconds = round(time.perf_counter() - start, 1)
    return write_study(study, planned, workdir, seconds=seconds)


def run_stages(
    planned: list[plan.Run],
    workdir: Path,
    mesh: Mesh,
    name: str,
    trackers: tuple[str, ...] = (),
    leave: bool = True,
) -> None:
    """The stages of some runs unless they are done, with a bar that may be left standing.

    Runs that differ in their seed alone follow each other: they share compiled programs.
    Raises `processes.Interrupted` where SIGTERM asked to stop, `reads.Changed` where a file that
    they read changes meanwhile.
    """
    cells = list(dict.fromkeys(tuple(run.axes.values()) for run in planned))
    ordered = plan.stages(sorted(planned, key=lambda run: cells.index(tuple(run.axes.values()))))
    with (
        stop_on_sigterm() as stopping,
        log.progress(total=len(ordered), desc=name, unit="stage", leave=leave) as bar,
    ):
        place = stage.Place(workdir, mesh, stopping, reads.watch(ordered), trackers)
        for one in ordered:
            if processes.agree(stopping):
                raise processes.Interrupted(f"stopped before stage {one.identity}")
            stage.run(one, place)
            bar.update()
        processes.lead(place.watch)


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[Any]:
    """Within it SIGTERM does not kill: the yielded function turns True, and runs save and stop.

    A process that cannot hear it, since it waits for another that is gone, ends after `DEAF` s.
    """
    asked = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def end_if_deaf() -> None:
        while number := os.read(reader, 1):  # written when a signal comes, whatever Python does
            if number[0] == signal.SIGTERM and not asked.wait(DEAF):
                print("SIGTERM while waiting for other processes: ended", file=sys.stderr)
                os._exit(75)

    previous = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    listener = threading.Thread(target=end_if_deaf, daemon=True)
    listener.start()
    try:
        yield asked.is_set
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGTERM, previous)
        os.close(writer)  # ends the listener
        listener.join()
        os.close(reader)


def folder_of(workdir: Path, name: str) -> Path:
    """The folder that a study of this name owns, beside the stages that all studies share."""
    return workdir / "studies" / name


def write_study(
    study: Study, planned: list[plan.Run], workdir: Path, seconds: float | None
) -> Path:
    """`study.json`: what the report needs to know beside the stages' results; process 0 writes.

    Returns the study's folder. Raises ValueError where it holds another study of this name.
    """
    folder = folder_of(workdir, study.name)
    path = folder / "study.json"
    with claimed(folder):
        processes.lead(lambda: _write_study(study, planned, workdir, path, seconds))
    return folder


def _write_study(
    study: Study,
    planned: list[plan.Run],
    workdir: Path,
    path: Path,
    seconds: float | None,
) -> None:
    files.tidy(path.parent)
    before = _before(path)
    asked = sorted({reads.forgotten(s).identity for s in plan.stages(planned)})
    read, code = {}, {}  # digests by path
    for one in plan.stages(planned):
        for name, file in reads.paths(one).items():
            (code if name.startswith(reads.CODE) else read)[str(file)] = one.reads[name]
    _check_own(path, before, planned, asked, read)
    config = as_dict(study)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    content = before.get("reads"), before.get("code", {})
    same = before.get("config_hash") == digest and content == (read, code)
    files.write_sealed(
        path,
        {
            "study": study.name,
            "command": shlex.join([*["python"][: sys.argv[0].endswith(".py")], *sys.argv]),
            "versions": {"python": platform.python_version()}
            | {p: importlib.metadata.version(p) for p in PACKAGES},
            "device": f"{jax.devices()[0].device_kind} x{jax.device_count()}",
            "config_hash": digest,
            "config": config,
            "selection": study.experiment.student.train.select,
            "headline": study.headline,
            "seconds": (before.get("seconds") if same else None) or seconds,
            "asked": asked,
            "reads": read,
            "code": code,  # of plugins from outside
            "data": _data(planned),
            "runs": [_row(r) for r in planned],
            "ledger": _ledger(planned, workdir),
        },
    )


def _before(path: Path) -> dict[str, Any]:
    """What `study.json` says; {} where there is none, or where it is damaged: it is derived."""
    try:
        return files.read_sealed(path)
    except FileNotFoundError:
        return {}
    except files.Damaged as error:
        logging.warning("%s: made anew", error)
        return {}


def _check_own(
    path: Path,
    before: Mapping[str, Any],
    planned: list[plan.Run],
    asked: list[str],
    read: Mapping[str, str],
) -> None:
    """Raises ValueError unless this study holds all that the one in the folder holds.

    So seeds and values of axes may be added, and files be edited or moved, but no other study of
    the same name, or of other files, takes its place.
    """
    remedy = f"give this study another name (--config.name=...), or remove {path.parent}"
    if lost := len({*before.get("asked", ())} - {*asked}):
        raise ValueError(
            f"{path} tells of a study with {len(before['runs'])} runs, and {lost} of its "
            f"{len(before['asked'])} stages are not among those of this study of the same name, "
            f"with {len(planned)} runs: it would be lost. To keep both, {remedy}"
        )
    old = before.get("reads", {})
    there = any(_holds(buckets.path(p), digest) for p, digest in old.items())
    if there and not {*old} & {*read} and not {*old.values()} <= {*read.values()}:
        raise ValueError(
            f"{path} tells of a study of the same name that read {', '.join(sorted(old))}; this "
            f"one reads other files with other content. To keep both, {remedy}"
        )


def _holds(path: Path, digest: str) -> bool:
    return path.is_file() and files.digest(path) == digest


def _sees_attributes(run: plan.Run) -> bool:
    """May its methods, or an augmentation of its data, know attributes of training examples?"""
    augmented = mixture.build(run.experiment.data.augment).values()
    own = [one for one in augmented if run.augmented_as in one.roles]
    distillers = [registry.build("distill", d) for d in run.distill]
    methods = [registry.build("debias", run.debias), *distillers, *own]
    return any(method.sees_attributes for method in methods)


def _row(run: plan.Run) -> dict[str, Any]:
    experiment, model = run.experiment, run.model
    teachers = run.teachers if run.role != "baseline" else {}
    models = {name: plan.model_name(teacher.model) for name, teacher in teachers.items()}
    return {
        "run": run.name,
        "role": run.role,
        "debias": run.debias["name"],
        "debias_options": run.debias,
        "sees_attributes": _sees_attributes(run),
        "distill": "+".join(d["name"] for d in run.distill),
        "distill_options": run.distill,
        **_decision(experiment),
        "model": plan.model_name(model),
        "parameters": loop.net_of(experiment.data, run.net.config.model).num_parameters(),
        "teacher_model": " + ".join(f"{k} {m}".strip() for k, m in models.items()),
        "teacher_debias": "+".join(dict.fromkeys(t.debias["name"] for t in teachers.values())),
        "seed": experiment.seed,
        "axes": run.axes,
        "selection": run.how.train.select,
        "stage": run.net.identity,
        "evaluations": {k: v.identity for k, v in run.evaluations.items()},
        "comparisons": {k: v.identity for k, v in run.comparisons.items()},
        "inside": {k: v.identity for k, v in run.inside.items()},
        "teacher_run": run.teacher.name if run.teacher else "",
        "teachers": {name: one.name for name, one in run.teachers.items() if name},
        "baseline_run": run.baseline.name if run.baseline else "",
        "rungs": [one.name for one in run.rungs],
    }


def _decision(experiment: Experiment) -> dict[str, Any]:
    """What tells the labels; nothing where it is the likeliest that counts."""
    if not experiment.decide:
        return {}
    method = registry.build("decide", experiment.decide)
    return {
        "decide": experiment.decide["name"],
        "decide_options": dataclasses.asdict(method),
        "decides_by_attributes": method.sees_attributes,
    }


def _data(planned: list[plan.Run]) -> dict[str, Any]:
    """Examples by group of every split that is trained on or scored, and of extra ones."""
    found: dict[str, Any] = {}
    for run in planned:
        opened = pipeline.open_data(run.experiment.data)
        data, train = run.experiment.data, run.experiment.student.train
        splits = [("in_domain", data.split, None)]
        if train.select != "last" or run.experiment.decide:
            splits.append(("in_domain", train.validation, None))
        splits += [
            (name, split, e.set)
            for name, e in run.experiment.evaluate.items()
            for split in e.splits
        ]
        for name, split, spec in splits:
            part = strength.of(data) if split == strength.SPLIT and spec is None else None
            label = f"{split}, {part}" if part else split
            if label not in found.setdefault(name, {}):
                _tell(found[name], label, opened.source(split, spec).split)
        extra = opened.drawn().extra() if data.augment else {}
        for name, split in extra.items():
            _tell(found["in_domain"], f"extra, {name}", split)
    return found


def _tell(entry: dict[str, Any], label: str, split: Split) -> None:
    info = split.info
    entry |= {"licence": info.licence, "source": info.source}
    entry[label] = {
        "group_names": info.group_names,
        "counts": split.counts().tolist(),
        "left_out": dict(split.left_out),
        "subpopulations": info.subpopulations,
        "subpopulation_counts": split.member_counts().tolist(),
    }


def _ledger(planned: list[plan.Run], workdir: Path) -> list[dict[str, Any]]:
    """What each finished stage cost."""
    rows = []
    for one in plan.stages(planned):
        with contextlib.suppress(FileNotFoundError, files.Damaged):  # to be done, or done again
            done = files.read_sealed(workdir / "stages" / one.identity / stored.DONE)
            cost = {k: v for k, v in done.items() if k != "products"}
            rows.append({"stage": one.identity, "kind": one.kind} | cost)
    return rows
