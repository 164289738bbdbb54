"""`studies/NAME/study.json`: what a study is and did, which the report reads beside the stages."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import jax
from absl import logging

from fairkd_jax import buckets, files, processes, registry
from fairkd_jax.config import Experiment, Study, as_dict
from fairkd_jax.data import mixture, pipeline, strength
from fairkd_jax.data.dataset import Split
from fairkd_jax.study import plan, reads, stored
from fairkd_jax.study.claim import claimed
from fairkd_jax.train import loop
from fairkd_jax.types import Path

PACKAGES = ("fairkd_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
STUDY = "study.json"


def folder_of(workdir: Path, name: str) -> Path:
    """The folder that a study of this name owns, beside the stages that all studies share."""
    return workdir / "studies" / name


def device() -> str:
    """The devices of this run, as reports call them."""
    return f"{jax.devices()[0].device_kind} x{jax.device_count()}"


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers depend on."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | found


def write_study(
    study: Study,
    planned: list[plan.Run],
    workdir: Path,
    seconds: float | None,
    on: str | None = None,
) -> Path:
    """`study.json`: what the report needs to know beside the stages' results; process 0 writes.

    `on` are the devices that stages run on, those of this run unless it is said. Returns the
    study's folder. Raises ValueError where it holds another study of this name.
    """
    folder = folder_of(workdir, study.name)
    with claimed(folder):
        path = folder / STUDY
        processes.lead(lambda: _write_study(study, planned, workdir, path, seconds, on or device()))
    return folder


def _write_study(
    study: Study,
    planned: list[plan.Run],
    workdir: Path,
    path: Path,
    seconds: float | None,
    on: str,
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
            "versions": versions(),
            "device": on,
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
