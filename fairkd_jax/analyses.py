"""What can be asked of the inside of trained nets, and the stages that answer."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fairkd_jax.recipe import later


def _other_set() -> Any:
    """A field that names a set of which a split is read; None: that which nets were trained on."""
    return later(None, unsaid=True, room="sets")


@dataclasses.dataclass(frozen=True)
class Compare:
    """Layers of two nets to compare inside, on aligned and on conflicting examples of a split.

    By linear CKA, and by `measures`, plugins of the room "similarity". With `other_seed` each
    teacher is compared with the one of the next seed too (the last with the first): how like two
    nets are that differ in their seed alone is the baseline for all others.
    """

    split: str = "test"
    first: str = ""  # regular expression over the first net's tap names; "": no comparison
    second: str = ""
    examples: int = 512  # at most, of each kind
    batch_size: int = 256
    measures: tuple[Mapping[str, Any], ...] = later((), one_or_more=True)
    other_seed: bool = later(False)
    set: Mapping[str, Any] | None = _other_set()


@dataclasses.dataclass(frozen=True)
class Attention:
    """Attention maps of two nets to compare, on aligned and on conflicting examples of a split.

    Of nets without attention, where what layers put out is active: name these, ".*/out".
    """

    split: str = "test"
    first: str = ""  # regular expression over the first net's taps, ".*_probs"; "": no comparison
    second: str = ""
    examples: int = 512  # at most, of each kind
    batch_size: int = 64  # maps of all layers of a batch are in memory together
    set: Mapping[str, Any] | None = _other_set()


@dataclasses.dataclass(frozen=True)
class Probe:
    """Layers of a net to read label and attribute from; see `representation/probes.py`."""

    split: str = "test"
    taps: str = ""  # regular expression over every net's tap names; "": no probes
    examples: int = 512  # at most, of each kind
    folds: int = 5
    seed: int = 0  # of folds and of the control task
    batch_size: int = 256
    set: Mapping[str, Any] | None = _other_set()


@dataclasses.dataclass(frozen=True)
class Stitch:
    """Layers of a teacher to put in the place of a student's; see `representation/stitch.py`."""

    split: str = "test"  # whose examples are answered
    fit_split: str = "val"  # to whose examples the maps between layers are fitted
    first: str = ""  # regular expression over the first net's tap names; "": nothing is put in
    second: str = ""
    examples: int = 512  # at most, of each kind; and of those that maps are fitted to:
    fit_examples: int = 1024
    ridge: float = 1e-4  # of the maps, as a share of the mean variance of the first net's units
    seed: int = 0  # of what is shuffled
    batch_size: int = 64  # five answers of each example for every layer are computed together


@dataclasses.dataclass(frozen=True)
class Circuit:
    """Circuits of two nets to find and to compare; see `circuits/compare.py`.

    An example of a split and a corrupt one, which the set makes of it, are a pair.
    """

    scores: Mapping[str, Any] = dataclasses.field(
        default_factory=dict, metadata={"room": "scores"}
    )  # ways of scoring, by name: {"eap_ig": {"name": "eap_ig"}}; {}: no circuits
    pairs: str = "attribute"  # what the set changes: attribute | subject_object | heuristic | ...
    kind: str = "aligned"  # of clean examples: aligned (the shortcut is right) | conflicting | all
    level: str = "edges"  # where both nets have them, else nodes | nodes
    metric: str = "logit_difference"  # | kl
    ablation: str = "interchange"  # | mean | mean_positional | zero
    select: str = "top"  # | greedy
    sizes: tuple[float, ...] = (0.02, 0.05, 0.1)  # shares of all sites that circuits have
    thresholds: tuple[float, ...] = ()  # of |score|: circuits of all sites from there on
    random: int = 8  # circuits of equal size, to stand beside each
    bootstrap: int = 200  # samples of pairs
    split: str = "test"
    examples: int = 64  # pairs at most
    batch_size: int = 16
    at_once: int = 8  # patched passes of a batch that run together
    seed: int = 0  # of random circuits and of the bootstrap
    set: Mapping[str, Any] | None = _other_set()


@dataclasses.dataclass(frozen=True)
class CompareStage:
    """CKA and other measures of the layers of inputs "first" and "second"."""

    compare: Compare


@dataclasses.dataclass(frozen=True)
class AttentionStage:
    """Divergence of the attention maps of inputs "first" and "second"."""

    attention: Attention


@dataclasses.dataclass(frozen=True)
class ProbeStage:
    """Probes for label and attribute on the layers of the net of input "net"."""

    probe: Probe


@dataclasses.dataclass(frozen=True)
class StitchStage:
    """Layers of input "first", a teacher, in the place of those of input "second"."""

    stitch: Stitch


@dataclasses.dataclass(frozen=True)
class CircuitStage:
    """Circuits of the nets of inputs "first" and "second", and how they differ."""

    circuit: Circuit


STAGES = {"compare": CompareStage, "attention": AttentionStage, "probe": ProbeStage}
STAGES |= {"stitch": StitchStage, "circuit": CircuitStage}
