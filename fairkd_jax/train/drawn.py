"""What a run reads: its batches, what is true of all of them, a split that lives on the devices."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fairkd_jax import registry, sharding
from fairkd_jax.config import Data, TrainStage
from fairkd_jax.data import mixture, pipeline
from fairkd_jax.data.regrouped import Regrouped
from fairkd_jax.data.resident import Resident, resident
from fairkd_jax.data.tables import Table
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.train.step import Methods, Program
from fairkd_jax.types import Batch, Now


def changes_inputs(data: Data, debias: Debiaser) -> bool:
    """Do nets in training see other inputs than those of which a table holds the answers?"""
    views = [registry.build("views", spec) for spec in data.views.values()]
    views += mixture.build(data.augment).values()
    return debias.changes_inputs or any(view.changes_inputs for view in views)


def check_mixing(config: TrainStage, methods: Methods) -> None:
    """Raises ValueError where an example would be mixed twice, or a table knows it unmixed."""
    built = mixture.build(config.data.augment)
    for name in (k for k, one in built.items() if one.mixes):
        place, debias = f"data.augment.{name}", f"debias {config.debias['name']!r}"
        if methods.debias.changes_inputs:
            raise ValueError(f"{place} mixes examples and so does {debias}: leave out one of them")
        called = (debias, *(f"distill {d['name']!r}" for d in config.distill))
        for one, method in zip(called, methods.all):
            if method.tables:
                raise ValueError(
                    f"{place} mixes two examples, and {one} reads tables {method.tables} that tell "
                    "of each by itself: leave out one of them"
                )


def check_told(config: TrainStage) -> None:
    """Raises ValueError for what would be without effect where a table says how to draw."""
    data = config.data
    idle = {"sampler": data.sampler != "natural", "padding": data.padding == "bucket"}
    idle["augment"] = bool(mixture.finite(data.augment))
    for name in (k for k, asked in idle.items() if asked):
        raise ValueError(
            f"data.{name} = {getattr(data, name)!r}, but debias {config.debias['name']!r} says by "
            "itself how often each example of the split is drawn: leave it out"
        )


def largest_id(opened: pipeline.Opened) -> int:
    """Of the whole split, whatever part is trained on, and of what is added to it."""
    splits = opened.train, opened.drawn().split
    return max(int(split.columns["id"].max()) for split in splits)


def check_resident(config: TrainStage) -> None:
    """Raises ValueError where the host must make the batches."""
    views = {k: registry.build("views", v).changes_inputs for k, v in config.data.views.items()}
    drawn = [f"view {k!r}" for k, changes in views.items() if changes]
    drawn = [] if config.train.deterministic else drawn
    drawn += [f"augmentation {name!r}" for name in config.data.augment]
    if config.data.resident and drawn:
        raise ValueError(
            f"data.resident: {drawn[0]} draws at random in training, which the host does: leave "
            "data.resident at False"
        )


ATTRIBUTE = "attribute"  # the table, and its column, of attributes that an earlier stage inferred


def source_of(config: TrainStage, tables: Mapping[str, Table]) -> pipeline.Source:
    """What a run draws from; with inferred attributes, where the config says how many.

    Raises ValueError for extra examples beside them.
    """
    source = pipeline.open_data(config.data).drawn()
    if not config.attributes:
        return source
    if added := mixture.finite(config.data.augment):
        raise ValueError(
            f"data.augment {[*added]} gives extra examples, but attributes of training examples "
            "are inferred, and of extra ones no one infers any: leave one of them out"
        )
    columns = source.split.columns
    if ATTRIBUTE in tables:
        attribute = tables[ATTRIBUTE].join(columns["id"])[ATTRIBUTE]
    else:  # until it is there: each attribute with each label
        attribute = np.argsort(np.argsort(columns["label"], kind="stable")) % config.attributes
    return Regrouped(source, attribute, config.attributes)


def batches(
    config: TrainStage, methods: Methods, program: Program, tables: Mapping[str, Table], **how: Any
) -> Any:
    """All batches of a run, of the views that its nets read; `how` takes the place of options."""
    options = dict(
        padding=config.data.padding,
        views={n.view for n in (program.student, *dict(program.teachers).values()) if n},
        seed=config.seed,
        steps=max(config.train.steps, 1),  # one at least, to know shapes by
        batch_size=config.train.batch_size,
        sampler=config.data.sampler,
        tables={k: table for k, table in tables.items() if k != ATTRIBUTE},
        hide_attributes=not methods.sees_attributes,
        augment=not config.train.deterministic,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return pipeline.train_batches(source_of(config, tables), **(options | how))


def resident_of(
    like: Batch, config: TrainStage, tables: Mapping[str, Table], mesh: Mesh
) -> Resident | None:
    """All rows of the split on every device, of what a batch holds, where the config asks it."""
    if not config.data.resident:
        return None
    source = source_of(config, tables)
    columns = like.keys() & {"label", "attribute", "group", "id"}
    tables = {k: table for k, table in tables.items() if k in like.get("tables", ())}
    return sharding.put_replicated(resident(source, tables, like["views"], columns), mesh)


def now_of(config: TrainStage, methods: Methods, tables: Mapping[str, Table]) -> Now:
    """What is true of the whole run; no counts by group for a method that may not see them."""
    source = source_of(config, tables)
    groups = np.ceil(source.counts(config.train.batch_size)).astype(np.float32)
    labels = groups.reshape(len(source.split.info.label_names), -1).sum(axis=1)
    groups = groups if methods.sees_attributes else np.full_like(groups, np.nan)
    return Now(np.float32(config.train.steps), groups, labels)
