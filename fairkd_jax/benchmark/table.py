"""The table of presets: sizes, operations, speed and memory of each, every one in its own process.

So one that runs out of memory costs its row and not the table, and a peak of memory is its own.
"""

import dataclasses
import json
import pathlib
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from fairkd_jax import registry
from fairkd_jax.benchmark.measure import GIB, MIB, Stopwatch, describe, peak_bytes, peak_rss_mib
from fairkd_jax.benchmark.steps import library_step
from fairkd_jax.benchmark.workload import Setup, Workload, setup
from fairkd_jax.registry import UnknownName

COLUMNS = (  # (title, field of a row, how it is written)
    ("parameters", "student_parameters", lambda n: f"{n / 1e6:.2f} M"),
    ("GFLOP/forward", "forward_flops", lambda n: f"{n / 1e9:.2f}"),
    ("ERM examples/s", "erm_examples_per_s", lambda x: f"{x:.1f}"),
    ("KD examples/s", "kd_live_examples_per_s", lambda x: f"{x:.1f}"),
    ("KD step MiB", "step_mib", str),
    ("peak RSS MiB", "peak_rss_mib", str),
)


def presets(family: str | None = None, preset: str | None = None) -> list[tuple[str, str]]:
    """(family, preset) of every preset; or of those of one family, or of one name.

    Raises UnknownName for a family or a preset that is not there.
    """
    families = [family] if family else registry.available("models")
    names = [(f, name) for f in families for name in registry.plugin("models", f).presets]
    chosen = [pair for pair in names if preset in (None, pair[1])]
    if not chosen:
        raise UnknownName(preset, f"preset of {', '.join(families)}:", {name for _, name in names})
    return chosen


def measure_row(work: Workload, mesh: Mesh, steps: int, warmup: int) -> dict[str, Any]:
    """One row: the student's preset under plain training, and under a live teacher of `work`.

    `step_mib` is what XLA assigns to the step with a teacher on one device, known before anything
    runs; where the device has less, nothing does, and `note` says so. `forward_flops` are those of
    one example.
    """
    cases = {mode: setup(dataclasses.replace(work, mode=mode)) for mode in ("kd_live", "erm")}
    with_teacher = cases["kd_live"]
    need, there = _step_bytes(with_teacher, mesh), available_bytes()
    row = describe(with_teacher, "library", "pjit") | {
        "forward_flops": with_teacher.forward_flops(with_teacher.program.student) // work.batch,
        "step_mib": -(-need // MIB),
    }
    if there is not None and need > there:
        note = f"does not fit: the step needs {need / GIB:.1f} GiB (XLA's analysis)"
        return row | {"note": f"{note}, {there / GIB:.1f} are free"}
    for mode, case in cases.items():
        watch = Stopwatch(case, mesh, "library", "pjit", warmup)
        watch.take(steps)
        row[f"{mode}_examples_per_s"] = watch.examples_per_s
        del watch  # its arrays, before the next are made
    return row | {"peak_rss_mib": peak_rss_mib()}


def _step_bytes(case: Setup, mesh: Mesh) -> int:
    step = library_step(case, mesh, abstract=True).lower().compile()
    return peak_bytes(step.memory_analysis())


def available_bytes() -> int | None:
    """Free memory of a device, or a CPU device's share of the machine's; None: not known."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    info = pathlib.Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    free = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    return 1024 * free[0] // jax.local_device_count() if free else None


def collect(command: Sequence[str], names: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """The row of each (family, preset), from `command --family=... --student=... --teacher=...`.

    The command prints a row as its last line; of one that fails, the row's `note` says how.
    """
    for family, preset in names:
        which = [f"--family={family}", f"--student={preset}", f"--teacher={preset}"]
        done = subprocess.run([*command, *which], capture_output=True, text=True)
        row = {"family": family, "student": preset, "teacher": preset}
        yield row | (
            json.loads(done.stdout.splitlines()[-1])
            if done.returncode == 0
            else {"note": _failure(done)}
        )


def _failure(done: subprocess.CompletedProcess) -> str:
    if done.returncode < 0:
        return f"killed by signal {-done.returncode}" + " (no memory?)" * (done.returncode == -9)
    last = done.stderr.strip().splitlines()[-1:]
    return f"failed: {last[0] if last else 'no message'}"


def brief(row: dict[str, Any]) -> str:
    """What came of a row, for a line of progress."""
    values = (f"{write(row[key])} {title}" for title, key, write in COLUMNS[2:] if key in row)
    return row.get("note") or ", ".join(values)


def heading(work: Workload, steps: int, rows: Sequence[dict[str, Any]]) -> str:
    """What all rows were timed with, and on."""
    on = next((row for row in rows if "device" in row), None)
    place = on and f", {on['num_devices']} x {on['device']}, jax {on['versions']['jax']}"
    return (
        f"batch {work.batch}, {work.seq} tokens (padding: {work.pad}), {work.image} x {work.image} "
        f"pixels, {work.dtype}, teachers of the student's size, medians of {steps} steps"
        f"{place or ''}"
    )


def render(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as an aligned table; what a row lacks is a dash, its note stands behind it."""
    lines = [("family", "preset", *(title for title, _, _ in COLUMNS), "")]
    for row in rows:
        cells = (write(row[key]) if key in row else "-" for _, key, write in COLUMNS)
        lines.append((row["family"], row["student"], *cells, row.get("note", "")))
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]], words: int = 2) -> str:
    """Lines of cells as columns: the first ones and the last, of words, begin together."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < words or i == len(line) - 1 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )
