"""What is timed: nets, methods and synthetic batches, from a handful of names and numbers.

Hinton's distillation (arXiv 1503.02531) with AdamW, from a live teacher or from a table of its
logits, or plain cross-entropy; or any other method, as its last training takes its steps. `setup`
makes no array of the size of a batch: so what fits no machine here can be compiled for others.
"""

import ast
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fairkd_jax import registry
from fairkd_jax.config import TABLES, Data, Mix, Optim, Stage, Train, TrainStage
from fairkd_jax.data.samplers import TOLD
from fairkd_jax.data.tables import COLUMNS
from fairkd_jax.models.net import Net, make_net
from fairkd_jax.registry import UnknownName
from fairkd_jax.train import optim, passes
from fairkd_jax.train.drawn import ATTRIBUTE
from fairkd_jax.train.methods import shown_to
from fairkd_jax.train.step import Methods, Program, input_of, make_spec, table_of
from fairkd_jax.types import Array, Batch, Now, Outputs

NUM_BATCHES = 8  # that take turns
NUM_ATTRIBUTES = 2
KD_WEIGHT, TEMPERATURE = 0.5, 4.0
STEPS = 1000  # of a training, where a method has several and says how long each is
TEACHERS = ("",), ("biased", "other")  # names of those that a method asks for: one, or two
OPTIM = Optim(learning_rate=1e-4, schedule="constant", weight_decay=0.01, clip_norm=0.0)

FAMILIES = {  # student and teacher unless flags say otherwise; elsewhere the first two presets
    "bert": {"student": "mini", "teacher": "small"},
    "resnet": {"student": "18", "teacher": "50"},
    "t5": {"student": "tiny", "teacher": "small"},
    "vit": {"student": "ti16", "teacher": "s16"},
}
MODES = {  # mode: (distiller, where the teacher's logits come from)
    "erm": ("none", None),
    "kd_live": ("logits", "net"),
    "kd_table": ("logits", "table"),
}


@dataclasses.dataclass(frozen=True)
class Workload:
    """`student` and `teacher` are presets of the family."""

    family: str
    student: str
    teacher: str
    mode: str = "kd_live"  # erm | kd_live | kd_table
    batch: int = 32  # over all devices
    seq: int = 128  # tokens, for nets that read tokens
    image: int = 64  # pixels a side, for nets that read images
    classes: int = 3
    pad: str = "half"  # none | half: lengths uniform from 1 to `seq`
    dropout: float | None = None  # every dropout rate of the nets; None: the family's own
    dtype: str = "float32"  # of products: float32 | bfloat16
    debias: str = "erm"
    distill: str | None = None  # None: that of the mode
    remat: bool | None = None  # compute blocks anew for the gradient; None: the family's own
    options: tuple[str, ...] = ()  # "option=value" of the architecture, for student and teacher

    @property
    def distiller(self) -> str:
        """The name of the distillation method."""
        return self.distill or MODES[self.mode][0]


def workload(family: str, **given: Any) -> Workload:
    """A workload from the defaults of its family, replaced by what is given and not None.

    Raises UnknownName for a family, a mode or a padding that is not there.
    """
    presets = [*registry.plugin("models", family).presets]
    chosen = FAMILIES.get(family, {"student": presets[0], "teacher": presets[1]})
    work = Workload(family, **(chosen | {k: v for k, v in given.items() if v is not None}))
    for value, place, choices in ((work.mode, "mode", MODES), (work.pad, "pad", PADDINGS)):
        if value not in choices:
            raise UnknownName(value, place, choices)
    return work


PADDINGS = {  # name: lengths [rows] of examples of at most `seq` tokens
    "none": lambda rng, rows, seq: np.full(rows, seq),
    "half": lambda rng, rows, seq: rng.integers(1, seq + 1, rows),
}


def _tokens(work: Workload, rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    lengths = PADDINGS[work.pad](rng, rows, work.seq)
    mask = (np.arange(work.seq) < lengths[:, None]).astype(np.int32)
    tokens = rng.integers(5, 30000, (rows, work.seq), dtype=np.int32) * mask
    return {"tokens": tokens, "mask": mask, "segments": np.zeros_like(tokens)}


def _closed_tokens(work: Workload, rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    """The last real token is </s>, which T5's readouts look for."""
    arrays = _tokens(work, rng, rows)
    arrays["tokens"][np.arange(rows), arrays["mask"].sum(axis=1) - 1] = 1
    return arrays


def _pixels(work: Workload, rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    return {"pixels": rng.standard_normal((rows, work.image, work.image, 3), dtype=np.float32)}


VIEWS = {  # view: (its size, the facts that nets fit to, its arrays)
    "wordpiece": (
        lambda work: work.seq,
        lambda work: {"vocab_size": 30522, "length": work.seq},
        _tokens,
    ),
    "unigram": (
        lambda work: work.seq,
        lambda work: {
            "vocab_size": 32128,
            "length": work.seq,
            "label_tokens": tuple((5 + label,) for label in range(work.classes)),
        },
        _closed_tokens,
    ),
    "image": (
        lambda work: work.image,
        lambda work: {"height": work.image, "width": work.image, "channels": 3},
        _pixels,
    ),
}


def synthetic_batch(work: Workload, views: Iterable[str], index: int, rows: int) -> Batch:
    """Batch number `index`, numpy arrays of `rows` rows: all random, no padding rows."""
    rng = np.random.default_rng([index, jax.process_index()])
    label = rng.integers(0, work.classes, rows, dtype=np.int32)
    attribute = rng.integers(0, NUM_ATTRIBUTES, rows, dtype=np.int32)
    return {
        "views": {view: VIEWS[view][2](work, rng, rows) for view in sorted(set(views))},
        "label": label,
        "attribute": attribute,
        "group": label * NUM_ATTRIBUTES + attribute,
        "id": np.arange(index * rows, (index + 1) * rows, dtype=np.int32),
        "real": np.ones(rows, np.float32),
    }


def _tables(columns: Mapping[str, Iterable[str]], net: Net, batch: Batch) -> dict[str, Any]:
    """Tables of some columns, of what a net says of a batch; its logits and features are random."""
    rng, like = np.random.default_rng(batch["id"]), net.shapes(batch, "")
    with jax.transfer_guard("allow"):
        logits, features = (
            jnp.asarray(rng.standard_normal(x.shape, np.float32))
            for x in (like.logits, like.features)
        )
        said = Outputs(logits, features)
        tables = {k: {c: COLUMNS[c](said, batch) for c in table} for k, table in columns.items()}
        return jax.device_get(tables)


@dataclasses.dataclass(frozen=True)
class Setup:
    """A workload with everything chosen and checked."""

    work: Workload
    program: Program
    methods: Methods
    batch: Batch  # of shapes: the rows of this process
    now: Now  # counts of examples by group (NaN where hidden) and by label
    stage: Stage  # what takes such steps last, with the stages that it hangs on

    def batches(self) -> list[Batch]:
        """Numpy arrays, the rows of this process."""
        rows, views = self.work.batch // jax.process_count(), self.batch["views"]
        made = [synthetic_batch(self.work, views, i, rows) for i in range(NUM_BATCHES)]
        for batch in made:
            batch["tables"] = _tables(self.batch.get("tables", {}), self.program.student, batch)
        return [{key: batch[key] for key in self.batch} for batch in made]

    @property
    def live(self) -> dict[str, Net]:
        """Teachers that run beside the student."""
        return {name: net for name, net in self.program.teachers if net is not None}

    def model_flops(self) -> int:
        """Floating-point operations that one step asks for, over all devices.

        Three times each pass of a trained net (a backward pass counts for two) and one of a live
        teacher, each as XLA counts it before optimising; padding counts, recomputation does not.
        """
        student, debias = self.program.student, self.methods.debias
        nets = passes.trained_nets(student, debias)

        def outputs(variables: Any, batch: Batch) -> dict[str, Any]:
            key, how = jax.random.key(0), {"train": False, "save": ""}
            now, keys = self.now.replace(step=0), dict.fromkeys(nets, key)
            return passes.run(student, debias, variables, batch, {}, now, keys, key, **how)[0]

        variables = {name: net.variable_shapes() for name, net in nets.items()}
        named = jax.eval_shape(outputs, variables, self.batch)  # by net or pass of the student
        trained = [nets.get(name, student) for name in named]
        return 3 * sum(map(self.forward_flops, trained)) + sum(
            map(self.forward_flops, self.live.values())
        )

    def forward_flops(self, net: Net) -> int:
        """Of one forward pass over the batch of all devices."""

        def forward(variables: Any, batch: Batch) -> Array:
            return net.apply(variables, batch, train=False)[0].logits

        rows = (self.work.batch,)
        batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(rows + x.shape[1:], x.dtype), self.batch
        )
        lowered = jax.jit(forward).lower(net.variable_shapes(), batch)
        return int(lowered.cost_analysis()["flops"])


def setup(work: Workload) -> Setup:
    """Builds nets and methods.

    Raises UnknownName for a preset, a dtype, an option or a method that is not there; ValueError
    for a batch that does not divide over the devices, for dropout where the family has none, for
    an option that is no pair, and for a method that refuses these nets, or one and two teachers.
    """
    if work.batch < 1 or work.batch % jax.device_count():
        raise ValueError(f"batch = {work.batch} does not divide over {jax.device_count()} devices")
    student, teacher = (_net(work, preset) for preset in (work.student, work.teacher))
    stage, last = stages_of(work)
    config, source = last.config, MODES[work.mode][1]
    methods = Methods(
        debias=registry.build("debias", config.debias),
        distill=tuple(registry.build("distill", one) for one in config.distill),
        task_weight=config.mix.task_weight,
        kd_weight=config.mix.kd_weight,
    )
    reads = {d.reads for d in methods.distill} - {"nothing"}
    one_row = synthetic_batch(work, (student.view, teacher.view), 0, rows=1)
    num_groups = work.classes * NUM_ATTRIBUTES
    groups = np.full(num_groups, NUM_BATCHES * work.batch / num_groups, np.float32)
    labels = groups.reshape(work.classes, -1).sum(axis=1)
    if not methods.sees_attributes:
        groups = np.full_like(groups, np.nan)
        one_row = {k: v for k, v in one_row.items() if k not in ("attribute", "group")}
    now = Now(np.float32(NUM_BATCHES), groups, labels)
    refused = None
    for names in TEACHERS if source and reads else [()]:
        teachers = {input_of(name): teacher if source == "net" else None for name in names}
        program = Program(
            student=student,
            rule=optim.rule_of(OPTIM, config.train.trainable),
            teachers=tuple(teachers.items()),
            num_attributes=NUM_ATTRIBUTES,
            num_examples=NUM_BATCHES * work.batch,
            deterministic=config.train.deterministic,
        )
        answers = {table_of(name): ("logits",) for name, net in teachers.items() if net is None}
        batch = _shapes(work, student, one_row, _columns(last) | answers)
        spec = make_spec(program, methods, now, batch)
        try:
            for method in methods.all:
                method.check(shown_to(method, spec))
        except ValueError as error:
            refused = refused or error
        else:
            return Setup(work, program, jax.tree.map(np.float32, methods), batch, now, stage)
    raise refused


def _shapes(work: Workload, student: Net, one_row: Batch, columns: Mapping[str, Any]) -> Batch:
    """Of a batch, the rows of this process, with tables that have some columns."""
    tables = {"tables": _tables(columns, student, one_row)} if columns else {}
    rows = (work.batch // jax.process_count(),)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(rows + x.shape[1:], x.dtype), one_row | tables
    )


def stages_of(work: Workload) -> tuple[Stage, Stage]:
    """(what the methods plan with all that it hangs on, the last training among it)."""
    teacher = MODES[work.mode][1]
    config = TrainStage(
        data=Data(),
        model={"name": work.family, "preset": work.student},
        debias={"name": work.debias},
        distill=({"name": work.distiller},),
        mix=Mix(1 - KD_WEIGHT, KD_WEIGHT) if teacher else Mix(),
        optim=OPTIM,
        train=Train(steps=STEPS),
        seed=0,
    )
    stage = registry.build("distill", config.distill[0]).stages(Stage("train", config))
    stage = last = registry.build("debias", config.debias).stages(stage)
    while last.kind != "train":
        last = last.inputs["net"]
    return stage, last


def _columns(stage: Stage) -> dict[str, tuple[str, ...]]:
    """The columns that training reads of each table: of what is inferred, a source of bias."""
    return {
        name: one.config.columns if one.kind == "table" else ("log_probs",)
        for name, one in stage.inputs.items()
        if one.kind in TABLES and name not in (TOLD, ATTRIBUTE)
    }


def _net(work: Workload, preset: str) -> Net:
    options = {"name": work.family, "preset": preset, "dtype": work.dtype}
    if work.dropout is not None:
        rates = [k for k in registry.defaults("models", work.family) if k.endswith("dropout")]
        if not rates:
            raise ValueError(f"dropout = {work.dropout}: {work.family} has none")
        options |= dict.fromkeys(rates, work.dropout)
    if work.remat is not None:
        options["remat"] = work.remat
    options |= dict(map(_option, work.options))
    facts = {view: describe(work) for view, (_, describe, _) in VIEWS.items()}
    return make_net(options, work.classes, facts)


def _option(text: str) -> tuple[str, Any]:
    """("readout", "sequence") of "readout=sequence", ("depths", (1, 1)) of "depths=(1, 1)"."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"option {text!r}: expected name=value, such as remat=True")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a word
        return name, value
