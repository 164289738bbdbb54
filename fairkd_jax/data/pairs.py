"""What sets of premise and hypothesis share once they are prepared: labels, and a shortcut.

The attribute is one that the texts show by themselves (`shortcuts.py`): "overlap" or "negation".
"""

import numpy as np

from fairkd_jax.data.dataset import Info, Split, make_split
from fairkd_jax.data.prepared import Records
from fairkd_jax.data.shortcuts import SHORTCUTS
from fairkd_jax.registry import UnknownName

LABELS = ("entailment", "neutral", "contradiction")


def info(attribute: str, licence: str, source: str, labels: tuple[str, ...] = LABELS) -> Info:
    """Raises UnknownName for an attribute that is none of `SHORTCUTS`."""
    if attribute not in SHORTCUTS:
        raise UnknownName(attribute, "attribute", SHORTCUTS)
    suggests = SHORTCUTS[attribute].suggests
    aligned = tuple(tuple(label in suggests[v] for v in suggests) for label in labels)
    return Info(labels, tuple(suggests), aligned, licence, source)


def split_of(records: Records, info: Info, attribute: str) -> Split:
    """A split of "premise", "hypothesis" and "label"; rows of a label without a name are left out.

    TFDS has -1 where the annotators of SNLI did not agree; the literature leaves these out.
    """
    read = records.columns("premise", "hypothesis", "label")
    names = records.names("label")
    number = np.array([info.label_names.index(name) for name in names])
    rows = np.flatnonzero(read["label"] >= 0)
    holds = SHORTCUTS[attribute].holds
    shortcut = [0 if holds(read["premise"][i], read["hypothesis"][i]) else 1 for i in rows]
    split = make_split(
        info,
        number[read["label"][rows]],
        np.array(shortcut),
        id=rows,
        premise=[read["premise"][i] for i in rows],
        hypothesis=[read["hypothesis"][i] for i in rows],
    )
    return split
