"""Times of a step, its floating-point operations and its memory, as one flat dict for JSON.

Share of the peak: operations of the model (not those of XLA's program, which grow with
recomputation) a second, over what a large matrix product reaches on the same devices.
"""

import importlib.metadata
import itertools
import json
import pathlib
import re
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from fairkd_jax import sharding
from fairkd_jax.benchmark.steps import STEPS, Runner
from fairkd_jax.benchmark.workload import VIEWS, Setup
from fairkd_jax.registry import UnknownName

MIB, GIB = 2**20, 2**30
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


class Stopwatch:
    """One step of a workload, compiled and warm, and every time taken of it."""

    def __init__(self, case: Setup, mesh: Mesh, step: str | None, parallel: str, warmup: int):
        self.case, self.parallel = case, parallel
        self.step, make = choose(step, parallel)
        self.runner: Runner = make(case, mesh)
        start = time.perf_counter()
        self.runner.lower().compile()
        self.compile_s = time.perf_counter() - start
        self.runner()  # finds what was compiled
        self.first_step_s = time.perf_counter() - start
        self.warmup = warmup
        for _ in range(warmup):
            self.runner()
        self.times: list[float] = []
        self.cpu: list[float] = []

    def take(self, steps: int) -> dict[str, Any]:
        """Takes steps: {"ms": milliseconds of each, "cpu_ms": of all threads, mean over steps}.

        Raises FloatingPointError for a loss that is not finite.
        """
        times, cpu = [], time.process_time()
        for _ in range(steps):
            start = time.perf_counter()
            loss = self.runner()
            times.append(1e3 * (time.perf_counter() - start))
        cpu = 1e3 * (time.process_time() - cpu) / steps
        if not np.isfinite(loss):
            raise FloatingPointError(f"loss is {loss} after {self.runner.taken} steps")
        self.times += times
        self.cpu.append(cpu)
        return {"ms": times, "cpu_ms": cpu}

    @property
    def examples_per_s(self) -> float:
        """Over all devices, at the median of the steps taken."""
        return round(1e3 * self.case.work.batch / float(np.median(self.times)), 2)

    def report(self) -> dict[str, Any]:
        """Everything about the steps taken; measures the peak of the devices."""
        median = float(np.median(self.times))
        flops, peak = self.case.model_flops(), matmul_peak(self.case.work.dtype)
        stats = jax.local_devices()[0].memory_stats() or {}
        return describe(self.case, self.step, self.parallel) | {
            "steps": len(self.times),
            "warmup": self.warmup,
            "examples_per_s": self.examples_per_s,
            "median_ms": round(median, 3),
            "p10_ms": round(float(np.percentile(self.times, 10)), 3),
            "p90_ms": round(float(np.percentile(self.times, 90)), 3),
            "cpu_ms": round(float(np.median(self.cpu)), 2),
            "compile_s": round(self.compile_s, 2),
            "first_step_s": round(self.first_step_s, 2),  # compilation included
            "model_flops": flops,
            "matmul_peak_gflops_per_s": round(peak / 1e9, 1),
            "share_of_peak": round(flops / (median / 1e3) / peak, 4),
            "peak_rss_mib": peak_rss_mib(),
            "peak_device_mib": stats.get("peak_bytes_in_use", 0) // MIB or None,
        }


def choose(step: str | None, parallel: str) -> tuple[str, Any]:
    """(name of the step, how it is made); None: the step that is meant under `parallel`.

    Raises UnknownName for what is not there, such as the library's step under pmap.
    """
    if parallel not in STEPS:
        raise UnknownName(parallel, "parallel", STEPS)
    step = step or next(iter(STEPS[parallel]))
    if step not in STEPS[parallel]:
        raise UnknownName(step, f"step under {parallel}:", STEPS[parallel])
    return step, STEPS[parallel][step]


def describe(case: Setup, step: str, parallel: str) -> dict[str, Any]:
    """What was timed, on what."""
    work, student = case.work, case.program.student
    return {
        "family": work.family,
        "student": work.student,
        "teacher": work.teacher,
        "mode": work.mode,
        "debias": work.debias,
        "distill": work.distiller,
        "step": step,
        "parallel": parallel,
        "batch": work.batch,
        "size": VIEWS[student.view][0](work),
        "classes": work.classes,
        "pad": work.pad,
        "dropout": work.dropout,
        "dtype": work.dtype,
        "remat": work.remat,
        "options": list(work.options),
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "num_processes": jax.process_count(),
        "student_parameters": student.num_parameters(),
        "teacher_parameters": sum(net.num_parameters() for net in case.live.values()),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def bar(total: int, name: str, unit: str = "step") -> tqdm:
    """A progress bar on standard error; silent where that is no terminal."""
    hide = None if jax.process_index() == 0 else True
    return tqdm(total=total, desc=name, unit=unit, leave=False, disable=hide)


def measure(
    case: Setup, mesh: Mesh, step: str | None, parallel: str, steps: int, warmup: int
) -> dict[str, Any]:
    """Times `steps` steps after `warmup` untimed ones."""
    watch = Stopwatch(case, mesh, step, parallel, warmup)
    with bar(steps, watch.step) as progress:
        for _ in range(steps):
            watch.take(1)
            progress.update()
    return watch.report()


def serve(watch: Stopwatch, requests: Iterable[str]) -> dict[str, Any]:
    """Answers a number of steps on a line by a line of JSON with their times; at "end", the report.

    So a driver can time several programs in turn. Raises ValueError for a line that is neither.
    """
    print(json.dumps({"ready": True}), flush=True)
    for line in itertools.takewhile(lambda line: line.strip() != "end", requests):
        print(json.dumps(watch.take(int(line))), flush=True)
    return watch.report()


def compare(
    case: Setup, mesh: Mesh, parallel: str, steps: int, warmup: int, block: int = 4
) -> dict[str, Any]:
    """The library's step against the one by hand, in alternating blocks within one process.

    `ratio` is the median over rounds of library / by hand, medians of a block: 1.05 means that the
    library costs 5% more. Each round is led by the other one.
    """
    watches = {
        "library": Stopwatch(case, mesh, "library", "pjit", warmup),
        "plain": Stopwatch(case, mesh, "plain", parallel, warmup),
    }
    with bar(2 * steps, "compare") as progress:
        medians = in_turn(watches, steps, block, progress.update)
    times = {
        f"{name}_{key}": round(float(value), 3)
        for name, watch in watches.items()
        for key, value in (
            ("median_ms", np.median(watch.times)),
            ("best_ms", np.min(watch.times)),
            ("cpu_ms", np.median(watch.cpu)),
            ("compile_s", watch.compile_s),
        )
    }
    return (
        describe(case, "library / plain", f"pjit / {parallel}")
        | times
        | {
            "rounds": len(medians["plain"]),
            "block": block,
        }
        | ratio_of(medians["library"], medians["plain"])
    )


def in_turn(
    watches: Mapping[str, Stopwatch], steps: int, block: int, done: Callable[[int], Any]
) -> dict[str, list[float]]:
    """Milliseconds of a step, the median of each block of steps; blocks take turns.

    Each round is led by the next one. `done` is told how many steps were taken.
    """
    order, medians = [*watches], {name: [] for name in watches}
    for _ in range(-(-steps // block)):
        for name in order:
            medians[name].append(float(np.median(watches[name].take(block)["ms"])))
            done(block)
        order = order[1:] + order[:1]
    return medians


def ratio_of(over: list[float], under: list[float], name: str = "ratio") -> dict[str, Any]:
    """The median over rounds of a ratio, and its quartiles."""
    low, ratio, high = np.percentile(np.array(over) / np.array(under), [25, 50, 75])
    quartiles = [round(float(low), 4), round(float(high), 4)]
    return {name: round(float(ratio), 4), f"{name}_quartiles": quartiles}


def compile_only(case: Setup, mesh: Mesh, step: str | None, parallel: str) -> dict[str, Any]:
    """Memory and operations of the compiled step; nothing runs, no array is made.

    Memory is what XLA assigns when it compiles for the devices at hand: other kinds of device get
    another program. The peak is all of it: arguments and temporaries at once, with the results that
    do not take the place of a donated argument.
    """
    step, make = choose(step, parallel)
    start = time.perf_counter()
    compiled = make(case, mesh, abstract=True).lower().compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    return describe(case, step, parallel) | {
        "compile_s": round(seconds, 2),
        "fsdp": mesh.shape["fsdp"],
        "argument_bytes_per_device": memory.argument_size_in_bytes,
        "output_bytes_per_device": memory.output_size_in_bytes,
        "aliased_bytes_per_device": memory.alias_size_in_bytes,
        "temporary_bytes_per_device": memory.temp_size_in_bytes,
        "peak_gib_per_device": round(peak_bytes(memory) / GIB, 3),
        "peak_rss_mib": peak_rss_mib(),  # of this process, which compiles
        "model_flops": case.model_flops(),
        "xla_flops_per_device": int(compiled.cost_analysis()["flops"]),
    }


def peak_bytes(memory: Any) -> int:
    """Bytes on each device that a compiled program holds at once, from its memory analysis."""
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + results + memory.temp_size_in_bytes


def peak_rss_mib() -> int:
    """The most memory that this process has had, MiB."""
    status = pathlib.Path("/proc/self/status")  # elsewhere a child inherits the peak of its parent
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def matmul_peak(dtype: str, long_enough: float = 0.02) -> float:
    """Floating-point operations a second of the best large matrix product, over all devices.

    Square products, one on each device, of sizes that double until one takes `long_enough` seconds;
    of default precision, as in the nets. Each process measures its own devices and assumes that
    the others' are like them.
    """
    mesh = sharding.make_mesh(devices=jax.local_devices())
    best, size, seconds = 0.0, 512, 0.0
    places = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    while seconds < long_enough and size <= 16384:
        rows = mesh.size * size
        shapes = (rows, size), (size, size)
        left, right = jax.jit(
            lambda shapes=shapes: tuple(jnp.full(shape, 0.5, dtype) for shape in shapes),
            out_shardings=places,
        )()
        product = jax.jit(jnp.matmul).lower(left, right).compile()
        product(left, right).block_until_ready()
        times = []
        for _ in range(8):
            start = time.perf_counter()
            product(left, right).block_until_ready()
            times.append(time.perf_counter() - start)
        seconds = min(times)
        best = max(best, 2 * rows * size * size / seconds)
        size *= 2
    return best * jax.process_count()
