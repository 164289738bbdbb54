"""Everything about a study that can be known to fail, tried before any compute is spent."""

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

from fairkd_jax import registry
from fairkd_jax.config import SELECTION_RULES, Plugin, Role, Stage, Study, as_dict
from fairkd_jax.data import pipeline, strength
from fairkd_jax.data.dataset import Info
from fairkd_jax.data.samplers import TOLD
from fairkd_jax.debias import inference
from fairkd_jax.evaluation import fairness
from fairkd_jax.evaluation.sums import Sums, label_map, sizes_of
from fairkd_jax.models import transfer
from fairkd_jax.models.net import leaves
from fairkd_jax.registry import UnknownName
from fairkd_jax.representation import compare, measure
from fairkd_jax.study import borrow, chain, decided, inside, plan
from fairkd_jax.study.reads import data_of, made_by
from fairkd_jax.train import drawn, loop
from fairkd_jax.train.step import table_of, teachers_of


def check(study: Study, given: Mapping[str, Any] | None = None) -> list[plan.Run]:
    """The planned runs, once everything that can be known to fail has been tried.

    `given` are the dotted keys of the study that flags set, with their values. Raises UnknownName
    and ValueError before any compute, naming value, place and choices.
    """
    if study.seeds < 1:
        raise ValueError(f"seeds = {study.seeds}: a study needs at least one")
    if not re.fullmatch(r"\w[\w.-]*", study.name):
        raise ValueError(
            f"name = {study.name!r}: it names a folder, so letters, digits, '.', '_' and '-' alone"
        )
    if (named := sorted(study.experiment.teachers)) and study.experiment.teacher != Role():
        raise ValueError(
            f"teacher and teachers {named} are both given, and the named ones take its place: name "
            "it too, or leave it out"
        )
    _check_axes(study, given or {})
    planned = plan.runs(study)
    _check_seeds(planned)
    _check_floor(study, planned)
    tried: set[str] = set()
    for one in plan.stages(planned):
        if one.kind in CHECKS:
            CHECKS[one.kind](one, tried)
    _check_headline(study, planned)
    return planned


def _check_axes(study: Study, given: Mapping[str, Any]) -> None:
    """Raises ValueError for an axis without values, for values that read alike, and for what an
    axis would silently take from a flag or from another axis.
    """
    for axis, values in study.axes.items():
        labels = [plan.label(value) for value in values]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(
                f"axes.{axis}: its values are called {labels}. Each needs a name of its own in the "
                'report: add {"label": ...} to values that are dicts of changes'
            )
    changed = {a: {k for v in vs for k in plan.changes(a, v)} for a, vs in study.axes.items()}
    for axis, keys in changed.items():
        for key, (flag, value) in itertools.product(sorted(keys), given.items()):
            if _takes(key, flag.removeprefix("experiment."), value):
                raise ValueError(
                    f"the flag {flag} = {value!r} has no effect, since the axis {axis!r} sets "
                    f"{key!r} in every run. Change the axis (axes.{axis}), or leave the flag out"
                )
    for (first, earlier), (second, later) in itertools.combinations(changed.items(), 2):
        for old, new in itertools.product(sorted(earlier), sorted(later)):
            if old == new or old.startswith(f"{new}."):
                raise ValueError(
                    f"the axis {second!r} sets {new!r} and so takes away what the axis {first!r} "
                    f"set as {old!r}: let one axis hold both, or put it before the other"
                )


def _check_seeds(planned: list[plan.Run]) -> None:
    """Raises ValueError for a net that begins as a rung does, by an equal seed."""
    of_rungs = {run.net.config.seed for run in planned if run.role == "rung"}
    for run in planned:
        seed = getattr(run.net.config, "seed", None)  # a borrowed net has none
        if run.role != "rung" and seed in of_rungs:
            raise ValueError(
                f"seed {seed} of {run.name!r} is that of a rung too: theirs are those of the study "
                f"plus {chain.APART} for each place. Give the teacher another, or ask fewer seeds"
            )


def _check_floor(study: Study, planned: list[plan.Run]) -> None:
    """Raises ValueError for a floor under groups that no run thins."""
    changed = {
        k for axis, values in study.axes.items() for v in values for k in plan.changes(axis, v)
    }
    asked = study.experiment.data.group_floor or "data.group_floor" in changed
    found = [strength.of(run.experiment.data) for run in planned]
    if asked and not any(one and one.thins for one in found):
        raise ValueError(
            "data.group_floor has no effect where all examples are kept: it holds groups up while "
            "data.fraction thins them"
        )


def _takes(key: str, flag: str, value: Any) -> bool:
    """Does setting `key` replace what a flag set as `flag`, or a part of it?"""
    if flag == key or flag.startswith(f"{key}."):
        return True
    inner = as_dict(value.to_dict() if hasattr(value, "to_dict") else value)
    for part in key.removeprefix(flag).strip(".").split(".") if key.startswith(f"{flag}.") else ():
        if not isinstance(inner, Mapping) or part not in inner:
            return False
        inner = inner[part]
    return key.startswith(f"{flag}.")


def _check_headline(study: Study, planned: list[plan.Run]) -> None:
    """Raises ValueError without a headline metric, UnknownName for one that will not be there."""
    if not study.headline:
        raise ValueError("headline = (): name a metric to put first, as 'in_domain/test/acc_avg'")
    known = set()
    for run in planned:
        opened = pipeline.open_data(run.experiment.data)
        for name, e in run.experiment.evaluate.items():
            for split in e.splits:
                info = opened.source(split, e.set).split.info
                found = _metrics(info)
                if name != fairness.IN_DOMAIN and fairness.IN_DOMAIN in run.experiment.evaluate:
                    found |= {"gap_id_ood", *(f"gap_id_ood/{p}" for p in info.subpopulations)}
                known |= {f"{name}/{split}/{metric}" for metric in found}
    for metric in study.headline:
        if metric not in known:
            raise UnknownName(metric, "headline metric of the study:", known)


def _metrics(info: Info) -> set[str]:
    """The names of all numbers of an evaluation by itself."""
    none = Sums.zero(**sizes_of(info))
    return {*fairness.metrics(none, info=info), "adj_acc_avg"}


def _check_transfer(one: Stage, tried: set[str]) -> None:
    nets = (loop.net_of(s.config.data, s.config.model) for s in (one.inputs["net"], one))
    transfer.plan(*nets, one.config.transfer)


def _check_borrow(one: Stage, tried: set[str]) -> None:
    borrow.check(one)


def _check_compare(one: Stage, tried: set[str]) -> None:
    """Raises UnknownName for layers that a net does not have, and for measures that are none.

    ValueError for fewer examples than a measure needs.
    """
    config, data = one.config.compare, data_of(one)
    compare.check(config.examples, measure.build(config.measures))
    source = pipeline.open_data(data).source(config.split, config.set)
    batch = pipeline.eval_batches(source, 1)[0]
    for name, taps in (("first", config.first), ("second", config.second)):
        net = loop.net_of(one.inputs[name].config.data, one.inputs[name].config.model)
        key = json.dumps([as_dict(data), as_dict(one.inputs[name].config.model), taps])
        if key not in tried:
            tried.add(key)
            net.shapes(batch, taps)
            source.require(net.view, net.architecture.rows())


def _check_train(one: Stage, tried: set[str]) -> None:
    """Stages that differ in their seed alone are tried once."""
    config = one.change({"seed": 0}).config
    key = json.dumps(as_dict(config), sort_keys=True)
    if key in tried:
        return
    tried.add(key)
    select = config.train.select
    opened = pipeline.open_data(config.data)
    if select != "last" or config.train.eval_every:
        opened.dataset.require(config.train.validation)
        info = opened.source(config.train.validation).split.info
        none = Sums.zero(**sizes_of(info))
        rules = {*SELECTION_RULES, *fairness.selecting(fairness.metrics(none, info=info))}
        if select not in rules:
            raise UnknownName(select, "train.select", rules)
        _check_rows(one, tried, config.train.validation)
    if TOLD in one.inputs:
        drawn.check_told(config)
    names = teachers_of(config.mix)
    live = {k: one.inputs[k].config for k in names if k in one.inputs}
    nets = {k: loop.net_of(teacher.data, teacher.model) for k, teacher in live.items()}
    loop.check(config, nets | {k: None for k in names if table_of(k) in one.inputs})


def _check_evaluation(one: Stage, tried: set[str]) -> None:
    opened = pipeline.open_data(data_of(one))
    source = opened.source(one.config.split, one.config.set)
    label_map(opened.dataset.info.label_names, source.split.info)
    if one.config.decide:
        decided.check(one, source.split.info)
    _check_rows(one, tried, one.config.split, one.config.set)


def _check_table(one: Stage, tried: set[str]) -> None:
    _check_rows(one, tried, one.config.split)


def _check_infer(one: Stage, tried: set[str]) -> None:
    """Stages that differ in their seed alone are tried once."""
    key = json.dumps(as_dict(one.change({"seed": 0}).config), sort_keys=True)
    if key in tried:
        return
    tried.add(key)
    method = registry.build("infer", one.config.infer)
    columns = {k: s.config.columns for k, s in one.inputs.items() if s.kind == "table"}
    inference.check(method, pipeline.open_data(one.config.data).drawn().split, columns)
    if method.replaces:
        params = leaves(loop.net_of(one.config.data, one.config.model).variable_shapes()["params"])
        method.check_shapes({k: params[k].shape for k in inference.replaced(method, params)})


def _check_rows(one: Stage, tried: set[str], split: str, spec: Plugin | None = None) -> None:
    """Raises ValueError for examples of a split with words of which the net has no embedding."""
    data, model = made_by(one).config.data, made_by(one).config.model
    key = json.dumps(["rows", split, as_dict(spec), as_dict(data), as_dict(model)], sort_keys=True)
    if key not in tried:
        tried.add(key)
        net = loop.net_of(data, model)
        pipeline.open_data(data).source(split, spec).require(net.view, net.architecture.rows())


CHECKS = {
    "train": _check_train,
    "transfer": _check_transfer,
    "borrow": _check_borrow,
    "table": _check_table,
    "infer": _check_infer,
    "refit": _check_infer,
    "evaluate": _check_evaluation,
    "compare": _check_compare,
    **inside.CHECKS,
}
