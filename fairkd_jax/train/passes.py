"""The nets that a step trains, and their passes: the extra nets first, then the student's."""

from collections.abc import Mapping
from typing import Any

import jax

from fairkd_jax.debias.base import Debiaser
from fairkd_jax.models.net import Gather, Net
from fairkd_jax.types import Array, Batch, Now, Outputs, Pass


def trained_nets(student: Net, debias: Debiaser) -> dict[str, Net]:
    """All nets that a step trains by name, the student first."""
    return {"student": student} | {name: debias.extra_net(student) for name in debias.extra_nets}


def run(
    student: Net,
    debias: Debiaser,
    variables: Mapping[str, Any],
    batch: Batch,
    edits: Mapping[str, Any],
    now: Now,
    keys: Mapping[str, Array],
    pass_key: Array,
    *,
    train: bool,
    save: str,
    gather: Gather | None = None,
) -> tuple[dict[str, Outputs], dict[str, Any]]:
    """(outputs by net or pass, statistics by net).

    `variables` are those of the trained nets and `keys` what they draw from, by name; `edits` are
    of every pass, `save` names intermediates of the student; `gather` as in `Net.apply`.
    """
    outputs, stats, after, (asking, more) = {}, {}, {}, jax.random.split(pass_key)

    def one(name: str, net: Net, asked: Pass, key: Array, save: str) -> tuple[Outputs, Any]:
        seen = batch | {"views": batch["views"] | {net.view: asked.inputs}}
        edited = {**edits, **asked.edits}
        how = {"train": train, "key": key, "save": save, "edits": edited, "gather": gather}
        return net.apply(variables[name], seen, **how)

    inputs, (_, *extra) = batch["views"][student.view], trained_nets(student, debias).items()
    for name, net in extra:
        outputs[name], stats[name] = one(name, net, Pass(inputs), keys[name], debias.taps)
    passes = debias.passes(inputs, outputs, batch, now, asking)
    for i, (name, asked) in enumerate(passes.items()):
        key = keys[name] if name in keys else jax.random.fold_in(more, i)
        outputs[name], after[name] = one("student", student, asked, key, save)
    return outputs, stats | {"student": after["student"]}
