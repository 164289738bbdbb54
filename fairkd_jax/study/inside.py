"""What a study asks about the inside of its nets: where they look, what their layers tell.

Stages of kind "attention" and "circuit" compare a student with each teacher, those of kind "stitch"
put layers of the teacher into it, those of kind "probe" ask every net. A teacher may be compared
with that of another seed: the baseline for what a comparison tells.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from fairkd_jax import registry
from fairkd_jax.analyses import (
    AttentionStage,
    CircuitStage,
    Compare,
    CompareStage,
    ProbeStage,
    StitchStage,
)
from fairkd_jax.circuits import compare as circuits
from fairkd_jax.circuits.graph import graph_of
from fairkd_jax.config import Experiment, Stage, as_dict
from fairkd_jax.data import counterparts, pipeline
from fairkd_jax.data.source import Source
from fairkd_jax.evaluation.sums import label_map
from fairkd_jax.models.net import Net
from fairkd_jax.representation import attention, collect, linear_maps, probes, stitch
from fairkd_jax.study.reads import data_of, sealed_alone
from fairkd_jax.train import loop
from fairkd_jax.types import Batch

Nets = Mapping[str, tuple[Net, Any]]  # those of a stage's inputs, with their variables


def stages(
    experiment: Experiment, teachers: Mapping[str, Stage], net: Stage, twin: Stage | None = None
) -> dict[str, Stage]:
    """The stages about one net, by name: "attention/teacher", "probe"; none that is not asked for.

    Those with a teacher bear its name, where it has one. With a `twin`, the same net of another
    seed, also "other_seed", which compares both. Raises ValueError for a twin that is no other net.
    """
    found = {}
    if twin:
        if twin.identity == net.identity:
            raise ValueError(
                f"compare.other_seed: stage {net.identity} is the net of both seeds (a borrowed "
                "teacher, say), so it has no other to be compared with: leave other_seed out"
            )
        both = {"first": net, "second": twin}
        found["other_seed"] = Stage("compare", CompareStage(of_twins(experiment.compare)), both)
    if experiment.attention.first:
        config = AttentionStage(experiment.attention)
        for name, teacher in teachers.items():
            inputs = {"first": teacher, "second": net}
            found[f"attention/{name or 'teacher'}"] = Stage("attention", config, inputs)
    if experiment.stitch.first:
        config = StitchStage(experiment.stitch)
        for name, teacher in teachers.items():
            inputs = {"first": teacher, "second": net}
            found[f"stitch/{name or 'teacher'}"] = Stage("stitch", config, inputs)
    if experiment.probe.taps:
        found["probe"] = Stage("probe", ProbeStage(experiment.probe), {"net": net})
    if experiment.circuit.scores:
        _scores(experiment.circuit)
        circuit = CircuitStage(experiment.circuit)
        for name, teacher in teachers.items():
            inputs = {"first": teacher, "second": net}
            found[f"circuit/{name or 'teacher'}"] = Stage("circuit", circuit, inputs)
    return {name: sealed_alone(stage) for name, stage in found.items()}


def of_twins(compare: Compare) -> Compare:
    """The comparison of two nets of one architecture: the first's layers of both."""
    return dataclasses.replace(compare, second=compare.first, other_seed=False)


def source_of(kind: str, config: Any, opened: pipeline.Opened, nets: Iterable[Net]) -> Source:
    """The examples that a stage of a kind reads: those of its split, or pairs made of them."""
    source = opened.source(config.split, getattr(config, "set", None))
    made = SOURCES.get(kind)
    return made(config, source, opened, {net.view for net in nets}) if made else source


def _pairs(config: Any, source: Source, opened: pipeline.Opened, views: set[str]) -> Source:
    told = config.pairs, config.kind, config.examples, views
    dataset = registry.build("sets", config.set) if config.set else opened.dataset
    return counterparts.paired(source, dataset, *told)


SOURCES = {"circuit": _pairs}  # of kinds that read something else than examples of a split


def also_read(config: Any, opened: pipeline.Opened) -> tuple[Source, ...]:
    """Examples that are read before those of the split: those that maps are fitted to."""
    return (opened.source(config.fit_split),) if hasattr(config, "fit_split") else ()


@dataclasses.dataclass(frozen=True)
class Seen:
    """What is known of the examples that a stage reads."""

    aligned: Bool[np.ndarray, "Y A"]  # by label and attribute: is the shortcut right?
    labels: tuple[int, ...]  # for each class of the nets, the label of the set that it counts as


def seen(opened: pipeline.Opened, source: Source) -> Seen:
    """Raises ValueError where the labels of the set are none of the nets'."""
    info = source.split.info
    labels = label_map(opened.dataset.info.label_names, info)
    return Seen(np.asarray(info.aligned), tuple(labels.tolist()))


def _both(config: Any, nets: Nets) -> tuple[tuple, tuple]:
    """(each net with the taps to read of it, their variables), the first net first."""
    names = ("first", "second")
    return tuple((nets[k][0], getattr(config, k)) for k in names), tuple(nets[k][1] for k in names)


def _attention(
    config: Any,
    nets: Nets,
    batches: Iterable[Batch],
    seen: Seen,
    put: Callable[[Batch], Batch],
) -> dict[str, Any]:
    return attention.compare_attention(
        *_both(config, nets),
        batches,
        aligned=seen.aligned.reshape(-1),
        examples=config.examples,
        put=put,
    )


def _probe(
    config: Any,
    nets: Nets,
    batches: Iterable[Batch],
    seen: Seen,
    put: Callable[[Batch], Batch],
) -> dict[str, Any]:
    return probes.probe(
        (*nets["net"], config.taps),
        batches,
        aligned=seen.aligned,
        examples=config.examples,
        folds=config.folds,
        seed=config.seed,
        put=put,
    )


def _stitch(
    config: Any,
    nets: Nets,
    to_fit: Iterable[Batch],
    batches: Iterable[Batch],
    seen: Seen,
    put: Callable[[Batch], Batch],
) -> dict[str, Any]:
    return stitch.stitch_nets(
        *_both(config, nets),
        to_fit,
        batches,
        aligned=seen.aligned.reshape(-1),
        fit_examples=config.fit_examples,
        examples=config.examples,
        ridge=config.ridge,
        seed=config.seed,
        put=put,
    )


def _circuit(
    config: Any,
    nets: Nets,
    batches: Iterable[Batch],
    seen: Seen,
    put: Callable[[Batch], Batch],
) -> dict[str, Any]:
    return circuits.compare_circuits(
        nets,
        batches,
        scores=_scores(config),
        labels=seen.labels,
        **{name: getattr(config, name) for name in CIRCUIT},
        select_by=config.select,
        put=put,
    )


CIRCUIT = (
    "level", "metric", "ablation", "sizes", "thresholds", "random", "bootstrap", "seed", "at_once"
)  # fmt: skip


def _scores(config: Any) -> dict[str, Any]:
    """Raises ValueError for what is no plugin, and what `registry.build` raises."""
    for name, spec in config.scores.items():
        if not isinstance(spec, Mapping):
            raise ValueError(
                f"circuit.scores.{name} = {spec!r}: expected a dict such as {{'name': 'eap_ig'}}"
            )
    return {name: registry.build("scores", spec) for name, spec in config.scores.items()}


RESULTS = {"attention": _attention, "probe": _probe, "stitch": _stitch, "circuit": _circuit}


def _check_attention(one: Stage, tried: set[str]) -> None:
    """Raises UnknownName and ValueError for maps that cannot be compared."""
    config = one.config.attention
    batch, nets = _opened(one, tried)
    if nets:
        attention.check(config.examples)
        readers = (nets["first"], config.first), (nets["second"], config.second)
        attention.layer_pairs(readers, batch)


def _check_probe(one: Stage, tried: set[str]) -> None:
    """Raises UnknownName and ValueError for layers that cannot be probed."""
    config = one.config.probe
    batch, nets = _opened(one, tried)
    for net in nets.values():
        probes.check(config.examples, config.folds)
        for name, tap in net.shapes(batch, config.taps).taps.items():
            jax.eval_shape(lambda x, name=name: collect.pooled(name, x, None, "mean"), tap)


def _check_stitch(one: Stage, tried: set[str]) -> None:
    """Raises UnknownName and ValueError for layers that cannot be put into another net."""
    config = one.config.stitch
    batch, nets = _opened(one, tried)
    if nets:
        stitch.check(config.fit_examples, config.examples, config.ridge)
        if config.fit_split == config.split:
            raise ValueError(
                f"stitch: split and fit_split are both {config.split!r}: maps would be asked about "
                "the examples that they were fitted to"
            )
        for source in also_read(config, pipeline.open_data(data_of(one))):
            for net in nets.values():
                source.require(net.view, net.architecture.rows())
        readers = (nets["first"], config.first), (nets["second"], config.second)
        linear_maps.layer_pairs(readers, batch)


def _check_circuit(one: Stage, tried: set[str]) -> None:
    """Raises UnknownName and ValueError for circuits that cannot be found."""
    config = one.config.circuit
    batch, nets = _opened(one, tried)
    if nets:
        asked = {k: getattr(config, k) for k in ("level", "metric", "ablation", "sizes")}
        circuits.check(_scores(config), select_by=config.select, **asked)
        level, _ = circuits.level_of(nets, config.level)
        for net in nets.values():
            graph_of(net, batch, level)
        opened = pipeline.open_data(data_of(one))
        seen(opened, source_of("circuit", config, opened, nets.values()))


def _opened(one: Stage, tried: set[str]) -> tuple[Batch, dict[str, Net]]:
    """(a batch of the split, the nets of the inputs); no nets where it was tried with the like."""
    config, data = getattr(one.config, one.kind), data_of(one)
    made = {name: (s.config.data, s.config.model) for name, s in one.inputs.items()}
    key = json.dumps([one.kind, *map(as_dict, (config, data, made))], sort_keys=True)
    source = pipeline.open_data(data).source(config.split, getattr(config, "set", None))
    if key in tried:
        return {}, {}
    tried.add(key)
    nets = {name: loop.net_of(*spec) for name, spec in made.items()}
    for net in nets.values():
        source.require(net.view, net.architecture.rows())
    return pipeline.eval_batches(source, 1)[0], nets


CHECKS = {
    "attention": _check_attention,
    "probe": _check_probe,
    "stitch": _check_stitch,
    "circuit": _check_circuit,
}
