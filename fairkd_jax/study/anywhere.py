"""Two nets compared inside wherever they lie: in folders of stages, or published weights.

A stage's own folder is `WORKDIR/stages/NAME`; published weights are a folder of safetensors, as
`fairkd-export` writes them. Each net reads what it was trained to read: the view of its stage, or,
of published weights, its family's view with the tokenizer that lies beside them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fairkd_jax import buckets, files, registry, sharding
from fairkd_jax.analyses import Compare
from fairkd_jax.config import Data, Plugin
from fairkd_jax.data import pipeline
from fairkd_jax.models import pretrained, weights
from fairkd_jax.models.net import Net, make_net
from fairkd_jax.representation import compare, measure
from fairkd_jax.study import reads, stage, stored
from fairkd_jax.train.step import fresh_net
from fairkd_jax.types import Path

NAMES = ("first", "second")  # of the views, one for each net


@dataclasses.dataclass(frozen=True)
class Place:
    """A net in a folder: how it is made, what it reads, and where it lies."""

    folder: Path
    model: Plugin
    view: Plugin
    set: Plugin | None  # that it was trained on; None: published weights do not say
    labels: int  # that it tells apart; 0: published weights, of which no head is taken


def is_folder(text: str) -> bool:
    """Does this name a folder, and not a stage of a work folder by its first digits?"""
    return "/" in text or buckets.path(text).is_dir()


def find(text: str) -> Place:
    """The net in a folder. Raises ValueError or FileNotFoundError for a folder that has none."""
    folder = files.whole(buckets.path(text))
    if (folder / stored.CONFIG).is_file() and folder.parent.name == "stages":
        one = stored.read_net(folder.parent.parent, folder.name)
        folder = folder.parent / one.identity
        stored.require(folder, f"stage {one.identity}")
        reads.check([one])
        model, data = one.config.model, one.config.data
        facts = files.read_json(folder / stored.NET)
        view, labels = data.views[facts["view"]], len(facts["labels"])
        return Place(folder, facts.get("model", model), view, data.set, labels)
    found = weights.find(text)
    family = pretrained.architecture_from_config(found.folder, found.headers())
    name = registry.name_of(type(family))
    view = {"name": family.view}
    if "tokenizer" in registry.defaults("views", family.view):
        view["tokenizer"] = str(found.folder)
    return Place(folder, {"name": name, "pretrained": str(text)}, view, None, 0)


def compared(
    places: tuple[Place, Place], config: Compare, mesh: Mesh, on: Plugin | None = None
) -> dict[str, Any]:
    """What `compare_nets` finds for the nets of two folders.

    On the set `on`, else that on which the first, or the second, was trained. Raises ValueError
    where no set is known, UnknownName for taps and measures that are not there.
    """
    known = [one for one in (on, *(place.set for place in places)) if one]
    if not known:
        raise ValueError(
            "published weights do not say which data they are for: name a set, --on_set="
            '\'{"name": "snli"}\''
        )
    measures = measure.build(config.measures)
    compare.check(config.examples, measures)
    views = [_as_long(place, other) for place, other in (places, places[::-1])]
    data = Data(set=known[0], views=dict(zip(NAMES, views)))
    source = pipeline.open_data(data).source(config.split)
    nets = [_net(place, name, data, mesh) for place, name in zip(places, NAMES)]
    batches = pipeline.eval_batches(
        source,
        sharding.divisible(config.batch_size, mesh),
        views={*NAMES},
        in_order=True,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    first, second = config.first, config.second
    for (net, _), taps in zip(nets, (first, second)):
        net.shapes(batches[0], taps)
        source.require(net.view, net.architecture.rows())
    return compare.compare_nets(
        *nets[0],
        *nets[1],
        pipeline.prefetched(batches),
        aligned=np.asarray(source.split.info.aligned).reshape(-1),
        first_taps=first,
        second_taps=second,
        examples=config.examples,
        put=lambda batch: sharding.put_batch(batch, mesh),
        measures=measures,
    )


def _as_long(place: Place, other: Place) -> Plugin:
    """A place's view. Published weights do not say how much of a text they read: as the other net.

    Else a net would be compared with itself on other texts, where its stage cuts them short.
    """
    told = "length" in place.view or "length" not in other.view
    reads_texts = "length" in registry.defaults("views", place.view["name"])
    return place.view if told or not reads_texts else {**place.view, "length": other.view["length"]}


def _net(place: Place, view: str, data: Data, mesh: Mesh) -> tuple[Net, Mapping[str, Any]]:
    """(the net as it reads a view of these data, its variables on the devices)."""
    opened, model = pipeline.open_data(data), {**place.model, "view": view}
    if place.labels:
        net = make_net(model, place.labels, opened.facts)
        return net, stage.variables_of(net, place.folder, mesh)
    # what is compared lies below a head
    net = make_net(model | {"head": "fresh"}, len(opened.dataset.info.label_names), opened.facts)
    fresh = fresh_net(net, mesh, sharding.put_replicated(np.uint32(0), mesh))
    return net, pretrained.load(net, place.model["pretrained"], fresh, "fresh")
