"""What can be asked of the inside of trained nets, and the stages that answer."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Compare:
    """Layers of two nets to compare inside, on aligned and on conflicting examples of a split."""

    split: str = "test"
    first: str = ""  # regular expression over the first net's tap names; "": no comparison
    second: str = ""
    examples: int = 512  # at most, of each kind
    batch_size: int = 256


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


@dataclasses.dataclass(frozen=True)
class Probe:
    """Layers of a net to read label and attribute from; see `representation/probes.py`."""

    split: str = "test"
    taps: str = ""  # regular expression over every net's tap names; "": no probes
    examples: int = 512  # at most, of each kind
    folds: int = 5
    seed: int = 0  # of folds and of the control task
    batch_size: int = 256


@dataclasses.dataclass(frozen=True)
class CompareStage:
    """CKA of the layers of inputs "first" and "second"."""

    compare: Compare


@dataclasses.dataclass(frozen=True)
class AttentionStage:
    """Divergence of the attention maps of inputs "first" and "second"."""

    attention: Attention


@dataclasses.dataclass(frozen=True)
class ProbeStage:
    """Probes for label and attribute on the layers of the net of input "net"."""

    probe: Probe


STAGES = {"compare": CompareStage, "attention": AttentionStage, "probe": ProbeStage}
