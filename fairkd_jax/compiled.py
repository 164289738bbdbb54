"""Programs are compiled once: kept from one process to the next, and what compiling costs, counted.

JAX keeps what XLA made of a program under a digest of the program, of its options and of the
versions, but says nothing of the processor, for whose instructions XLA writes. So there is a folder
for each kind of machine.
"""

import dataclasses
import hashlib
import os
import pathlib
import platform
from typing import Any

import filelock
import jax
from absl import logging

MOST = 8 * 2**30  # bytes that are kept; what was not used for longest goes first
PATIENCE = 10.0  # seconds to wait for another process at the folder
KEPT, USED, LOCK = "-cache", "-atime", ".lockfile"  # names that JAX gives
PROCESSOR = ("vendor_id", "cpu family", "model", "model name", "flags", "Features")
HIT = "/jax/compilation_cache/cache_hits"
LOWER = "/jax/core/compile/jaxpr_to_mlir_module_duration"
COMPILE = "/jax/core/compile/backend_compile_duration"  # with what is read in its place


def keep(folder: pathlib.Path) -> None:
    """Programs are read from and written into a folder for this kind of machine below this one.

    Where JAX was told of another folder, by JAX_COMPILATION_CACHE_DIR, that is taken. None is kept,
    and a warning says so, where the folder cannot be written or locked.
    """
    if jax.config.jax_compilation_cache_dir:
        return
    place = folder / "programs" / _machine()
    try:
        place.mkdir(parents=True, exist_ok=True)
        _tidy(place)
    except OSError as error:
        logging.warning("compiled programs are not kept: %s", error)
        return
    for name, value in {
        "jax_compilation_cache_dir": str(place),
        "jax_compilation_cache_max_size": MOST,
        "jax_persistent_cache_min_compile_time_secs": 0.0,  # small ones are many
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        jax.config.update(name, value)


def order_for_memory() -> None:
    """Has XLA's compiler for CPUs order a program's operations for memory; before JAX is used.

    Otherwise it orders them so that many may run at once: all parameters that are split are then
    gathered before the first is used, and all blocks computed anew before the first gradient. On
    two cores that order is worth 3 % of the time of a ResNet's step and none of a BERT's.
    """
    name = "--xla_cpu_enable_concurrency_optimized_scheduler"
    if name not in (flags := os.environ.get("XLA_FLAGS", "")):
        os.environ["XLA_FLAGS"] = f"{flags} {name}=false".strip()


def _machine() -> str:
    """A digest of what XLA may look at when it chooses instructions."""
    facts = [platform.system(), platform.machine(), platform.processor()]
    about = pathlib.Path("/proc/cpuinfo")
    if about.exists():
        first = about.read_text().partition("\n\n")[0].splitlines()
        facts += [line for line in first if line.partition("\t")[0].strip(": ") in PROCESSOR]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def _tidy(folder: pathlib.Path) -> None:
    """Removes what a process was killed while it wrote; JAX would neither read nor replace it."""
    with filelock.FileLock(folder / LOCK, timeout=PATIENCE):
        for entry in folder.glob(f"*{KEPT}"):
            if not entry.with_name(entry.name.removesuffix(KEPT) + USED).exists():
                entry.unlink()


@dataclasses.dataclass
class Spent:
    """What this process has spent on programs so far; `b - a` is what was spent between."""

    seconds: float = 0.0  # lowering and compiling, or reading what is kept; not tracing
    programs: int = 0
    read: int = 0  # of these, so many were kept

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(
            self.seconds - other.seconds, self.programs - other.programs, self.read - other.read
        )

    def told(self) -> dict[str, float | int]:
        """As ledgers have it."""
        seconds = round(self.seconds, 3)
        return {"compile_seconds": seconds, "programs": self.programs, "programs_read": self.read}


_SPENT = Spent()


def spent() -> Spent:
    """Until now, since this module was imported."""
    return dataclasses.replace(_SPENT)


def _count(event: str, seconds: float, **_: Any) -> None:
    if event in (LOWER, COMPILE):
        _SPENT.seconds += seconds
        _SPENT.programs += event == COMPILE


def _count_hit(event: str, **_: Any) -> None:
    _SPENT.read += event == HIT


jax.monitoring.register_event_duration_secs_listener(_count)
jax.monitoring.register_event_listener(_count_hit)
