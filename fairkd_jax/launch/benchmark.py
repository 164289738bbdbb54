"""Times a training step on synthetic batches and prints one line of JSON.

    fairkd-benchmark                                   BERT mini from small, 32 x 128
    fairkd-benchmark --family=resnet --batch=64        ResNet-18 from 50, 64 x 64 pixels
    fairkd-benchmark --mode=kd_table                   teacher's logits from a table
    fairkd-benchmark --dtype=bfloat16                  products in bfloat16
    fairkd-benchmark --remat                           blocks computed anew: less memory
    fairkd-benchmark --family=t5 --option=readout=sequence   any option of the nets
    fairkd-benchmark --fake_devices=8 --fsdp=2         shardings, on a laptop

What the library costs more than a step written by hand, and than one under `jax.pmap`:

    fairkd-benchmark --student=mini --mode=erm --batch=32 --seq=64 --compare
    fairkd-benchmark --student=mini --mode=erm --parallel=pmap --compare --fake_devices=2

`--step=plain` times the hand-written step alone, `--parallel=pmap` the one under pmap.
`--serve` reads numbers of steps on standard input and answers with times, for a driver that times
several programs in turn.

What a method adds to a step, against plain ERM and, where there is a teacher, Hinton's KD, in turn:

    fairkd-benchmark --debias=lff                      without a teacher; --mode=kd_live: with one
    fairkd-benchmark --distill=rkd --family=resnet     or both of them
    fairkd-benchmark --methods                         all, on small nets; JSON lines too: --json

What ways of scoring sites of a ViT cost against exact patching, a line of JSON each:

    fairkd-benchmark --circuits --student=mini         trained for 200 steps; --trained=0: fresh

What memory a step will take is known before it takes it, for as many devices as one likes:

    fairkd-benchmark --compile_only --fake_devices=256 --fsdp=8 --batch=2048 \
        --student=large --teacher=large

All presets, or those of a family, each by itself and under a live teacher of its own size:

    fairkd-benchmark --table                           a line of JSON each: --json
    fairkd-benchmark --table --family=vit --student=b16 --image=224

What data cost, a line of JSON each; the load of the machine stands beside it:

    fairkd-benchmark --data=pairs --rows=393000        made-up pairs, read first and again
    fairkd-benchmark --data=images --rows=50000        made-up JPEGs, prepared, then likewise
    fairkd-benchmark --data=wait                       share of a step that waits for data
    fairkd-benchmark --data=padding --pairs=F.tsv.gz   longest and bucket against fixed

All pairs of 13 and 7 layers of two BERTs compared in one pass, against pair by pair from files:

    fairkd-benchmark --similarity=both --compared=2048   in turn, with ratios; pass, pairs: alone
"""

import dataclasses
import json
import pathlib
import sys
from typing import Any

import jax
from absl import flags
from jax.sharding import Mesh

from fairkd_jax.benchmark import circuits, data, measure, methods, similarity, table
from fairkd_jax.benchmark.steps import STEPS
from fairkd_jax.benchmark.workload import MODES, PADDINGS, Workload, setup, workload
from fairkd_jax.launch import runtime
from fairkd_jax.models.layers import DTYPES

FAMILY = flags.DEFINE_string("family", None, "A file in fairkd_jax/models/; bert, in a table all.")
WORKLOAD = (  # fields of a Workload; not given: its defaults, or those of the family
    flags.DEFINE_string("student", None, "Preset of the trained net."),
    flags.DEFINE_string("teacher", None, "Preset of the teacher."),
    flags.DEFINE_enum("mode", None, [*MODES], "Loss, and where the teacher's logits come from."),
    flags.DEFINE_integer("batch", None, "Examples a step, over all devices.", lower_bound=1),
    flags.DEFINE_integer("seq", None, "Tokens of an example.", lower_bound=1),
    flags.DEFINE_integer("image", None, "Pixels a side.", lower_bound=1),
    flags.DEFINE_integer("classes", None, "Labels.", lower_bound=2),
    flags.DEFINE_enum("pad", None, [*PADDINGS], "Lengths: all full, or half padding on average."),
    flags.DEFINE_float("dropout", None, "Every dropout rate.", lower_bound=0.0, upper_bound=1.0),
    flags.DEFINE_enum("dtype", None, DTYPES, "Of products; parameters are float32."),
    flags.DEFINE_string("debias", None, "A file in fairkd_jax/debias/."),
    flags.DEFINE_string("distill", None, "A file in fairkd_jax/distill/."),
    flags.DEFINE_bool("remat", None, "Compute blocks anew for the gradient, to save memory."),
)
OPTION = flags.DEFINE_multi_string(
    "option", [], "NAME=VALUE, an option of the nets; may be given more than once."
)
STEP = flags.DEFINE_enum(
    "step", None, ["library", "plain"], "Whose step; plain: written by hand, erm and kd alone."
)
PARALLEL = flags.DEFINE_enum("parallel", "pjit", [*STEPS], "How devices share the work.")
STEPS_TIMED = flags.DEFINE_integer(
    "steps", None, "Timed steps; 20, in a table 5, of methods 12.", lower_bound=1
)
WARMUP = flags.DEFINE_integer(
    "warmup", None, "Untimed steps after the first; 3, in a table 1.", lower_bound=0
)
COMPARE = flags.DEFINE_bool("compare", False, "Library's step against the plain one, in turn.")
COMPILE_ONLY = flags.DEFINE_bool("compile_only", False, "Lower and compile; run nothing.")
SERVE = flags.DEFINE_bool("serve", False, "Time blocks of steps as standard input asks.")
TABLE = flags.DEFINE_bool("table", False, "Every preset, each in a process of its own.")
METHODS = flags.DEFINE_bool("methods", False, "What every method adds to a step of small nets.")
CIRCUITS = flags.DEFINE_bool("circuits", False, "What scoring sites of a ViT costs, how well.")
TRAINED = flags.DEFINE_integer(
    "trained", 200, "Steps of training before, with --circuits.", lower_bound=0
)
SCORED = flags.DEFINE_integer("scored", 32, "Pairs of inputs, with --circuits.", lower_bound=2)
ROW = flags.DEFINE_bool("row", False, "One row of the table, as JSON.")
JSON = flags.DEFINE_bool(
    "json", False, "With --table or --methods: each row as a line of JSON too."
)
DATA = flags.DEFINE_enum("data", None, ["pairs", "images", "wait", "padding"], "What data cost.")
ROWS = flags.DEFINE_integer(
    "rows", 50_000, "Examples, with --data=pairs or images.", lower_bound=1000
)
PAIRS = flags.DEFINE_string("pairs", None, "A file of nli_files, with --data=padding.")
SIMILARITY = flags.DEFINE_enum(
    "similarity", None, similarity.MODES, "What comparing all pairs of layers costs."
)
COMPARED = flags.DEFINE_integer("compared", 2048, "Examples, with --similarity.", lower_bound=4)
flags.mark_bool_flags_as_mutual_exclusive(
    [COMPARE, COMPILE_ONLY, SERVE, TABLE, METHODS, CIRCUITS, ROW]
)

flags.adopt_module_key_flags(runtime)


def main(argv: list[str]) -> None:
    """Builds the workload, times it, prints."""
    if TABLE.value:
        print_table(argv)
        return
    mesh = runtime.start(tight=bool(flags.FLAGS.remat))
    if DATA.value:
        print_data(mesh)
        return
    if SIMILARITY.value:
        print_similarity(mesh)
        return
    if METHODS.value:
        print_methods(mesh)
        return
    if CIRCUITS.value:
        print_circuits(mesh)
        return
    work = asked(batch=32)
    how = STEP.value, PARALLEL.value
    steps, warmup = numbers_of_steps(20, 3)
    if ROW.value:
        result = table.measure_row(work, mesh, steps, warmup)
    elif COMPILE_ONLY.value:
        result = measure.compile_only(setup(work), mesh, *how)
    elif COMPARE.value:
        result = measure.compare(setup(work), mesh, PARALLEL.value, steps, warmup)
    elif SERVE.value:
        result = measure.serve(measure.Stopwatch(setup(work), mesh, *how, warmup), sys.stdin)
    elif how == (None, "pjit") and (flags.FLAGS.debias or flags.FLAGS.distill):
        alone = not (flags.FLAGS.mode or flags.FLAGS.distill)
        work = dataclasses.replace(work, mode="erm") if alone else work
        result = methods.cost(work, mesh, steps, warmup)
    else:
        result = measure.measure(setup(work), mesh, *how, steps, warmup)
    if jax.process_index() == 0:
        print(json.dumps(result), flush=True)


def print_data(mesh: Mesh) -> None:
    """One line for each thing that was measured."""
    length = flags.FLAGS.seq or 128
    if DATA.value == "pairs":
        found = [data.pairs(ROWS.value, length)]
    elif DATA.value == "images":
        found = [data.images(ROWS.value, flags.FLAGS.image or 224)]
    elif DATA.value == "wait":
        found = data.waits(mesh, STEPS_TIMED.value or 60)
    else:
        if not PAIRS.value:
            raise ValueError("--data=padding needs --pairs=FILE: .tsv, .csv or .jsonl of pairs")
        rounds = STEPS_TIMED.value or 12
        file = pathlib.Path(PAIRS.value).absolute()
        found = [data.paddings(mesh, file, length, flags.FLAGS.batch or 32, rounds)]
    for line in found:
        print(json.dumps(line | data.describe()), flush=True)


def print_similarity(mesh: Mesh) -> None:
    """One line of both ways, or of one."""
    found = similarity.cost(
        mesh,
        SIMILARITY.value,
        examples=COMPARED.value,
        length=flags.FLAGS.seq or 32,
        batch=flags.FLAGS.batch or 64,
        rounds=STEPS_TIMED.value or 2,
    )
    if jax.process_index() == 0:
        print(json.dumps(found | data.describe()), flush=True)


def asked(family: str = "bert", **usual: Any) -> Workload:
    """The workload of the flags; what they leave unsaid is as usual."""
    given = {flag.name: flag.value for flag in WORKLOAD if flag.value is not None}
    given["options"] = tuple(OPTION.value)
    return workload(FAMILY.value or family, **usual | given)


def numbers_of_steps(timed: int, untimed: int) -> tuple[int, int]:
    """Those that the flags give, else these."""
    values = (STEPS_TIMED.value, timed), (WARMUP.value, untimed)
    return tuple(default if value is None else value for value, default in values)


def print_table(argv: list[str]) -> None:
    """Times one preset after the other with the flags of this call, then prints all rows.

    JAX is not started here, so that every device is free for the processes of the rows.
    """
    names = table.presets(FAMILY.value, flags.FLAGS.student)
    work, (steps, warmup) = asked(batch=8), numbers_of_steps(5, 1)
    settings = [f"--batch={work.batch}", f"--steps={steps}", f"--warmup={warmup}"]
    command = [sys.executable, *argv[:1], *sys.argv[1:], *settings, "--notable", "--row"]
    rows = []
    for index, row in enumerate(table.collect(command, names), start=1):
        progress = f"[{index}/{len(names)}] {row['family']} {row['student']}: {table.brief(row)}"
        print(progress, file=sys.stderr, flush=True)
        if JSON.value:
            print(json.dumps(row), flush=True)
        rows.append(row)
    print(table.heading(work, steps, rows), table.render(rows), sep="\n")


def print_circuits(mesh: Mesh) -> None:
    """A line for each level and way of scoring."""
    told = flags.FLAGS
    model = {"name": "vit", "preset": told.student or "tiny"}
    sizes = {"examples": SCORED.value, "batch": told.batch or 16, "image": told.image or 16}
    for row in circuits.rows(mesh, model, TRAINED.value, **sizes):
        print(json.dumps(row), flush=True)


def print_methods(mesh: Mesh) -> None:
    """A row for each method as it is done, then all of them."""
    families = [FAMILY.value] if FAMILY.value else [*methods.SMALL]
    works = [asked(family, **methods.SMALL.get(family, {})) for family in families]
    found = []
    for row in methods.rows(works, mesh, *numbers_of_steps(12, 1)):
        if JSON.value and jax.process_index() == 0:
            print(json.dumps(row), flush=True)
        found.append(row)
    if jax.process_index() == 0:
        print(methods.render(found), flush=True)


script = runtime.script(main)
