"""A worker: a process that owns its devices, keeps its programs, and runs stages one by one.

It is the process of a Ray actor (fleet.py), to which this file is sent as it is: Python may find
other modules there until `start` says where to look, so all else is imported after that.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from typing import Any

DONE, STOPPED, FAILED = "done", "stopped", "failed"  # how what a worker is asked may end


@dataclasses.dataclass(frozen=True)
class Setup:
    """What makes a process like the one that sends this, but for its devices."""

    path: tuple[str, ...]  # where Python finds modules
    folder: str  # in which it was launched
    jax: Mapping[str, Any]  # options of JAX by name
    programs: str  # folder of compiled programs; "": none
    verbosity: int  # of the log
    fsdp: int
    cores: int  # that the worker has for itself; 0: none, it has another device


def _answered(method: Callable[..., dict]) -> Callable[..., dict]:
    """What it raises is told in words: not every error survives the way between processes."""

    @functools.wraps(method)
    def run(*arguments: Any) -> dict[str, Any]:
        try:
            return {"state": DONE} | method(*arguments)
        except Exception as error:
            from fairkd_jax.processes import Interrupted

            if isinstance(error, Interrupted):
                return {"state": STOPPED, "why": str(error)}
            traceback.print_exc()  # into the log
            return {"state": FAILED, "why": f"{type(error).__name__}: {error}"}

    return run


class Worker:
    """Asked `start`, then `open`, then `work` as often as there are stages for it."""

    @_answered
    def start(self, setup: Setup) -> dict[str, Any]:
        """Makes JAX ready; says what and where this process is."""
        own = [p for p in sys.path if p not in setup.path and p not in ("", setup.folder)]
        sys.path[:] = [*setup.path, *own]
        import jax
        import scipy.linalg  # noqa: F401, its threads begin as it is imported
        from absl import logging

        from fairkd_jax import compiled, sharding
        from fairkd_jax.study.about import device, versions

        logging.use_absl_handler()
        logging.set_verbosity(setup.verbosity)
        for name, value in setup.jax.items():
            if jax.config.values.get(name) != value:
                jax.config.update(name, value)
        if setup.programs:
            compiled.keep(pathlib.Path(setup.programs))
        self._mesh = sharding.make_mesh(setup.fsdp)  # starts the devices, with all their threads
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "log": _log(),
            "device": device(),
            "versions": versions(),
            "cores": own_cores(setup.cores),
        }

    @_answered
    def open(
        self, workdir: str, witness: str, digest: str, trackers: tuple[str, ...]
    ) -> dict[str, Any]:
        """Prepares to run stages of a work folder.

        Raises FileNotFoundError where this machine does not see the file `witness` below it, as
        the one that sends this does.
        """
        from fairkd_jax import buckets, files
        from fairkd_jax.study import stage

        place = buckets.path(workdir)
        seen = place / witness
        if not seen.exists() or files.digest(seen, anew=True) != digest:
            raise FileNotFoundError(
                f"{socket.gethostname()} does not see in {workdir} what the process that leads "
                f"wrote there, {witness}: the work folder must be one that all machines share"
            )
        self._place = stage.Place(place, self._mesh, _cancelled, trackers=trackers)
        return {}

    @_answered
    def work(self, one: Any) -> dict[str, Any]:
        """Runs a stage unless it is done; where Ray cancels this, it saves and stops."""
        from fairkd_jax.config import ordered
        from fairkd_jax.study import reads, stage

        self._place.watch = reads.watch(ordered([one]).values())
        stage.run(one, self._place)
        return {}


def _cancelled() -> bool:
    """Was what runs here cancelled?"""
    import ray

    return ray.get_runtime_context().is_canceled()


def own_cores(number: int) -> list[int]:
    """Binds this process to so many cores that no other worker of the machine has; says which.

    The threads of XLA, LAPACK and others stay as many as in a process that has the machine for
    itself, if they have begun: sums and convolutions are cut by their number, which shows in the
    last bits. A core is held by the lock of a file, which ends with the process however that ends.
    Where there are not so many, it is bound to none.
    """
    if not number or not hasattr(os, "sched_setaffinity"):
        return []
    import fcntl

    folder = pathlib.Path(tempfile.gettempdir()) / f"fairkd_jax_cores_{os.getuid()}"
    folder.mkdir(exist_ok=True)
    held: dict[int, Any] = {}
    for core in sorted(os.sched_getaffinity(0)):
        if len(held) == number:
            break
        file = (folder / str(core)).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held[core] = file
        except OSError:
            file.close()
    if len(held) < number:
        for file in held.values():
            file.close()
        return []
    _HELD.update(held)
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.sched_setaffinity(int(thread), held)
    return sorted(held)


_HELD: dict[int, Any] = {}  # open files with the locks of this process's cores


def _log() -> str:
    """Where what this process says goes."""
    try:
        return os.readlink("/proc/self/fd/2")
    except OSError:
        return "that of Ray"
