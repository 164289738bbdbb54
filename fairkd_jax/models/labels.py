"""Which row of a published head is which label of the task: by the names in the config.json."""

import re
from collections.abc import Mapping
from typing import Any

from fairkd_jax.registry import UnknownName

UNNAMED = "LABEL_{}"  # what transformers calls a label that was given no name


def named(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of the head's rows, by each entry of a config that gives them names."""
    more = config.get("pretrained_cfg") or {}  # timm's
    given = {
        "id2label": config.get("id2label"),
        "label2id": {number: name for name, number in (config.get("label2id") or {}).items()},
        "label_names": config.get("label_names") or more.get("label_names"),
    }
    found = {}
    for entry, names in given.items():
        numbered = names if isinstance(names, Mapping) else dict(enumerate(names or ()))
        rows = [str(numbered[number]) for number in sorted(numbered, key=int)]
        if not all(re.fullmatch(UNNAMED.format(r"\d+"), name) for name in rows):
            found[entry] = rows
    return found


def order(
    config: Mapping[str, Any],
    task: list[str],
    label_map: Mapping[str, str],
    notes: list[str],
    faults: list[str],
) -> list[int] | None:
    """Number in the file of each label of the task, matched by name; None: they stand in order.

    `label_map` says what names in the file mean: {"LABEL_0": "entailment"}. Adds to `notes` what
    was taken on trust or reordered, to `faults` what does not go together.
    """
    found = named(config)
    if len({tuple(map(_normal, rows)) for rows in found.values()}) > 1:
        told = ", ".join(f"{entry} says {rows}" for entry, rows in found.items())
        faults.append(f"labels: the config.json contradicts itself: {told}")
        return None
    unnamed = [UNNAMED.format(i) for i in range(len(task))]
    rows = next(iter(found.values()), unnamed)
    if rows is unnamed and not label_map:
        notes.append(
            f"labels without names: they are taken to be, in order, {', '.join(task)}; "
            f"where they are not, say label_map = {{{rows[0]!r}: {task[-1]!r}, ...}}"
        )
        return None
    meant = {_normal(name): label for name, label in label_map.items()}
    ours, theirs = ([_normal(n) for n in names] for names in (task, rows))
    for names, place, choices in (
        (label_map, "label of the weights", rows),
        (label_map.values(), "label of the task", task),
    ):
        known = {_normal(choice) for choice in choices}
        wrong = [name for name in names if _normal(name) not in known]
        faults += [f"label_map: {UnknownName(n, f'{place}:', choices)}" for n in wrong]
    theirs = [_normal(meant.get(name, name)) for name in theirs]
    if theirs == ours:
        return None
    if sorted(theirs) != sorted(ours):
        strange = [row for row, name in zip(rows, theirs) if name not in ours] or rows
        faults.append(
            f"labels: the head tells {rows} apart, the task {task}: say what they mean, "
            f'label_map = {{{strange[0]!r}: one of the task, ...}}, or head="fresh"?'
        )
        return None
    notes.append(f"head reordered from {rows} to {task}")
    return [theirs.index(name) for name in ours]


def _normal(label: str) -> str:
    """What is the same in spellings of one label: "Not_Entailment " and "not-entailment"."""
    return " ".join(re.split(r"[\s_-]+", label.lower().strip()))
