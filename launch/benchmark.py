"""Times a training step on synthetic batches and prints one line of JSON.

    python launch/benchmark.py                                   BERT mini from small, 32 x 128
    python launch/benchmark.py --family=resnet --batch=64        ResNet-18 from 50, 64 x 64 pixels
    python launch/benchmark.py --mode=kd_table                   teacher's logits from a table
    python launch/benchmark.py --mode=erm --debias=group_dro     what a debiasing method costs
    python launch/benchmark.py --dtype=bfloat16                  products in bfloat16
    python launch/benchmark.py --fake_devices=8 --fsdp=2         shardings, on a laptop

What the library costs more than a step written by hand, and than one under `jax.pmap`:

    python launch/benchmark.py --student=mini --mode=erm --batch=32 --seq=64 --compare
    python launch/benchmark.py --student=mini --mode=erm --parallel=pmap --compare --fake_devices=2

`--step=plain` times the hand-written step alone, `--parallel=pmap` the one under pmap.
`--compile_only` says what memory a step will take, before it takes it. `--serve` reads numbers of
steps on standard input and answers with times, for a driver that times several programs in turn.
"""

import json
import sys

import jax
import runtime
from absl import app, flags

from fairkd_jax.benchmark import measure
from fairkd_jax.benchmark.steps import STEPS
from fairkd_jax.benchmark.workload import MODES, PADDINGS, setup, workload
from fairkd_jax.models.layers import DTYPES

FAMILY = flags.DEFINE_string("family", "bert", "A file in fairkd_jax/models/.")
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
)
STEP = flags.DEFINE_enum(
    "step", None, ["library", "plain"], "Whose step; plain: written by hand, erm and kd alone."
)
PARALLEL = flags.DEFINE_enum("parallel", "pjit", [*STEPS], "How devices share the work.")
STEPS_TIMED = flags.DEFINE_integer("steps", 20, "Timed steps.", lower_bound=1)
WARMUP = flags.DEFINE_integer("warmup", 3, "Untimed steps after the first.", lower_bound=0)
COMPARE = flags.DEFINE_bool("compare", False, "Library's step against the plain one, in turn.")
COMPILE_ONLY = flags.DEFINE_bool("compile_only", False, "Lower and compile; run nothing.")
SERVE = flags.DEFINE_bool("serve", False, "Time blocks of steps as standard input asks.")
flags.mark_bool_flags_as_mutual_exclusive([COMPARE, COMPILE_ONLY, SERVE])


flags.adopt_module_key_flags(runtime)


def main(argv: list[str]) -> None:
    """Builds the workload, times it, prints."""
    del argv
    mesh = runtime.start()
    case = setup(workload(FAMILY.value, **{flag.name: flag.value for flag in WORKLOAD}))
    how = STEP.value, PARALLEL.value
    if COMPILE_ONLY.value:
        result = measure.compile_only(case, mesh, *how)
    elif COMPARE.value:
        result = measure.compare(case, mesh, PARALLEL.value, STEPS_TIMED.value, WARMUP.value)
    elif SERVE.value:
        watch = measure.Stopwatch(case, mesh, *how, WARMUP.value)
        result = measure.serve(watch, sys.stdin)
    else:
        result = measure.measure(case, mesh, *how, STEPS_TIMED.value, WARMUP.value)
    if jax.process_index() == 0:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    app.run(main)
