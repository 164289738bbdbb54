"""What can be asked for: frozen dataclasses that hold every default, read once from a `ConfigDict`.

A config file returns a `ConfigDict` of plain values; `parse` turns it into an `Experiment` or a
`Study`, rejects unknown keys with the nearest known one, and nothing downstream sees the
`ConfigDict` again. A plugin is a dict: {"name": "group_dro", "step_size": 0.01}.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

from fairkd_jax import analyses
from fairkd_jax.analyses import Attention, Circuit, Compare, Probe, Stitch
from fairkd_jax.parsing import as_config_dict as as_config_dict
from fairkd_jax.parsing import as_dict as as_dict
from fairkd_jax.parsing import content_of, update
from fairkd_jax.parsing import parse as parse
from fairkd_jax.recipe import SELECTION_RULES as SELECTION_RULES
from fairkd_jax.recipe import Optim, Role, Teacher, Train, Transfer, later

FORMAT = 3  # raised when the meaning of a stage changes: older stages are then trained anew

Plugin = Mapping[str, Any]


def _field(**default: Any) -> Any:
    return dataclasses.field(default_factory=lambda: dict(default))


def _plugin(room: str, **default: Any) -> Any:
    """A field that holds a plugin of a room, or several by name."""
    return dataclasses.field(default_factory=lambda: dict(default), metadata={"room": room})


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set, the views that nets read of it, and how training draws from it."""

    set: Plugin = _plugin("sets", name="colored_digits")
    views: Mapping[str, Plugin] = _plugin("views", image={"name": "image"})
    split: str = "train"  # drawn from in training
    sampler: str = "natural"  # see data/samplers.py
    fraction: float = later(1.0)  # of the split "train" that is kept: see data/strength.py
    group_floor: int = later(0)  # examples of each group that are kept at least, where it has them
    correlation: float | None = later(None)  # share of each label whose shortcut is right
    label_noise: float = later(0.0)  # share of each label that carries another
    strength_seed: int | None = later(None)  # of what these draw; None: that of the run
    augment: Mapping[str, Plugin] = later({}, room="augment")  # by name; see data/augmentation.py
    padding: str = later("longest")  # of texts: longest | bucket | fixed; see data/padding.py
    resident: bool = later(False, place=True)  # the split lives on the devices: data/resident.py


@dataclasses.dataclass(frozen=True)
class Mix:
    """How task loss and distillation loss meet (`task_weight * task + kd_weight * KD`).

    scope "total": the debiasing method reduces the sum; "task": it reduces the task loss, and the
    mean distillation loss is added outside.
    """

    task_weight: float = 1.0
    kd_weight: Any = dataclasses.field(default=1.0, metadata={"or_mapping": True})  # or a schedule
    scope: str = "total"
    teachers: Mapping[str, Any] = later({}, unsaid=True)  # weights of named ones; left out: 1.0


@dataclasses.dataclass(frozen=True)
class Rung(Role):
    """A net between the teachers and the student: taught by what is before it, it teaches the next.

    What is left out, or empty, is as the student has it, its model too. See `study/chain.py`.
    """

    model: Plugin = _plugin("models")
    optim: Optim | None = None
    train: Train | None = None
    debias: Plugin = _field()  # {}: as the student, while it is distilled
    distill: tuple[Plugin, ...] = dataclasses.field(default=(), metadata={"one_or_more": True})
    mix: Mix | None = None
    transfer: Transfer | None = None  # it starts from the net that teaches it; None: fresh, always
    rounds: int = 1  # so many such nets, one after the other, each the teacher of the next


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Splits of a set to score; without a set, splits of the one that was trained on."""

    set: Plugin | None = dataclasses.field(default=None, metadata={"room": "sets"})
    splits: tuple[str, ...] = ("test",)
    batch_size: int = 512


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A debiased teacher, the same student without it (baseline) and with it (distilled)."""

    data: Data = Data()
    teacher: Role = Role()
    student: Role = Role()
    debias: Plugin = _field(name="erm")
    distilled_debias: Plugin | None = None  # while distilling; None: the same as `debias`
    distill: tuple[Plugin, ...] = dataclasses.field(
        default=({"name": "logits"},), metadata={"one_or_more": True}
    )
    mix: Mix = Mix()
    transfer: Transfer | None = None  # the distilled net starts from the teacher; None: fresh
    evaluate: Mapping[str, Evaluation] = dataclasses.field(
        default_factory=lambda: {"in_domain": Evaluation()}, metadata={"values": Evaluation}
    )
    compare: Compare = Compare()
    seed: int = 0
    teachers: Mapping[str, Teacher] = later({}, unsaid=True, values=Teacher)
    # by name, several or one, in the place of `teacher`; {}: that one
    decide: Plugin | None = later(None, unsaid=True, room="decide")
    # which label is told of log-probabilities, fitted on the validation split; None: the likeliest
    rungs: tuple[Rung, ...] = later((), unsaid=True, one_or_more=True, each=Rung)  # in their order
    attention: Attention = later(Attention())
    probe: Probe = later(Probe())
    stitch: Stitch = later(Stitch())
    circuit: Circuit = later(Circuit())


@dataclasses.dataclass(frozen=True)
class Study:
    """Experiments that differ along axes, each repeated over seeds.

    `axes` maps an axis name to its values. A value is a dict of dotted overrides of the experiment
    ({"teacher.model.preset": "18", "student.model.preset": "tiny"}), or anything else where the
    axis name is itself the dotted key ("mix.scope": ["total", "task"]).
    """

    name: str = "study"
    experiment: Experiment = Experiment()
    axes: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    seeds: int = 3  # how many: 0, 1, 2, ...
    headline: tuple[str, ...] = ("in_domain/test/worst_group_accuracy",)  # metrics put first
    search: Mapping[str, tuple[Any, ...]] = later({}, unsaid=True)
    # values that `fairkd-tune` draws from, by dotted key of the experiment


@dataclasses.dataclass(frozen=True)
class TrainStage:
    """Trains one net. Inputs: teachers (live), tables by name, "init" (weights to start from).

    With `attributes` the table "attribute" has a column of that name that takes the place of the
    data's attribute: an earlier stage inferred it. A table "draw" says how examples are drawn
    (`samplers.draw_as_told`).
    """

    data: Data
    model: Plugin = dataclasses.field(metadata={"room": "models"})
    debias: Plugin
    distill: tuple[Plugin, ...] = dataclasses.field(metadata={"one_or_more": True})
    mix: Mix
    optim: Optim
    train: Train
    seed: int
    attributes: int = later(0)  # how many are inferred; 0: none, they are those of the data


@dataclasses.dataclass(frozen=True)
class TransferStage:
    """Makes weights to start from out of those of input "net", and fresh ones for the rest."""

    data: Data
    model: Plugin = dataclasses.field(metadata={"room": "models"})
    transfer: Transfer
    seed: int


@dataclasses.dataclass(frozen=True)
class BorrowStage:
    """Copies the net of a finished train stage of another work folder; see `study/borrow.py`."""

    data: Data  # of the study that borrows
    model: Plugin = dataclasses.field(metadata={"room": "models"})
    stage: str = dataclasses.field(metadata={"place": True})
    workdir: str = dataclasses.field(metadata={"place": True})


@dataclasses.dataclass(frozen=True)
class TableStage:
    """Asks the net of input "net" about every example of a split and writes columns by id."""

    columns: tuple[str, ...]  # see data/tables.py: logits, log_probs, features, mistake, loss
    split: str = "train"
    batch_size: int = 512
    augment: Mapping[str, Plugin] = later({}, room="augment")  # whose extra examples it holds too


@dataclasses.dataclass(frozen=True)
class InferStage:
    """Computes columns of every example that `data` gives to training, and writes them by id.

    Inputs: the tables that the plugin reads, by name. See `debias/inference.py`.
    """

    data: Data
    infer: Plugin = dataclasses.field(metadata={"room": "infer"})
    seed: int


@dataclasses.dataclass(frozen=True)
class RefitStage:
    """Gives variables of the net of input "net" anew, as a plugin computes them by itself.

    Other inputs: the tables that the plugin reads, by name. It sees the examples of `data`.
    """

    data: Data
    model: Plugin = dataclasses.field(metadata={"room": "models"})
    debias: Plugin  # of which this is the last stage
    infer: Plugin = dataclasses.field(metadata={"room": "infer"})
    seed: int


@dataclasses.dataclass(frozen=True)
class EvaluateStage:
    """Counts by group of the net of input "net" on one split.

    With `decide` the predicted label is what this decides, fitted to the log-probabilities of
    another split, which are the table of input "calibration"; see `evaluation/decision.py`.
    """

    set: Plugin | None = dataclasses.field(metadata={"room": "sets"})  # None: the net's own
    split: str
    batch_size: int
    decide: Plugin | None = later(None, unsaid=True, room="decide")
    seed: int = later(0, unsaid=True)  # of what it draws


@dataclasses.dataclass(frozen=True)
class Stage:
    """Work that is done once.

    Its identity is the hash of its config, of the content of the files that it reads, and of its
    inputs' identities. Where files lie is no part of it.
    """

    kind: str  # train | transfer | borrow | table | infer | refit | evaluate | compare | ...: KINDS
    config: Any  # the dataclass above
    inputs: Mapping[str, "Stage"] = dataclasses.field(default_factory=dict)
    reads: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # name of a file -> digest of its content: put in by `study.reads.sealed`

    @cached_property
    def identity(self) -> str:
        """12 hexadecimal digits."""
        inputs = {k: v.identity for k, v in sorted(self.inputs.items())}
        content = [FORMAT, self.kind, content_of(self.config), dict(self.reads), inputs]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def change(self, updates: Mapping[str, Any]) -> "Stage":
        """The same stage with dotted config keys replaced: {"train.steps": 100}."""
        return dataclasses.replace(self, config=update(self.config, updates))

    def hang(self, **inputs: "Stage | None") -> "Stage":
        """The same stage with inputs added, or removed where None."""
        merged = {k: v for k, v in (dict(self.inputs) | inputs).items() if v is not None}
        return dataclasses.replace(self, inputs=merged)

    def remade(self, change: Callable[["Stage"], "Stage"], done: dict | None = None) -> "Stage":
        """The stage changed, and before it all its inputs, those of inputs too: each once."""
        done = {} if done is None else done
        if id(self) not in done:
            inputs = {name: one.remade(change, done) for name, one in self.inputs.items()}
            done[id(self)] = change(dataclasses.replace(self, inputs=inputs))
        return done[id(self)]

    def first_net(self, share: float) -> "Stage":
        """A net that is to tell of examples: this one by plain ERM without a teacher.

        It trains for a share of the steps, from where this one starts, and is kept as it then is.
        """
        first = self.change(
            {
                "debias": {"name": "erm"},
                "distill": {"name": "none"},
                "mix": Mix(),
                "attributes": 0,
                "train.steps": max(1, round(share * self.config.train.steps)),
                "train.patience": 0,
                "train.select": "last",
            }
        )
        start = {k: v for k, v in self.inputs.items() if k == "init"}
        return dataclasses.replace(first, inputs=start)

    def asked(self, column: str) -> "Stage":
        """A table of what this net says of the examples that it is trained on: one column."""
        return Stage("table", TableStage((column,), self.config.data.split), {"net": self})


def ordered(stages: Iterable[Stage]) -> dict[str, Stage]:
    """Stages and all their inputs by identity, each once, after its inputs."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.identity not in found:
            for before in stage.inputs.values():
                visit(before)
            found[stage.identity] = stage

    for stage in stages:
        visit(stage)
    return found


KINDS = {
    "train": TrainStage,
    "transfer": TransferStage,
    "borrow": BorrowStage,
    "table": TableStage,
    "infer": InferStage,
    "refit": RefitStage,
    "evaluate": EvaluateStage,
} | analyses.STAGES
TABLES = ("table", "infer")  # kinds of stages that leave a table
NETS = ("train", "refit")  # kinds of stages that end a net's training
