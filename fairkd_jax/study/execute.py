"""Runs a study: checks all of it, has its stages run, by this process or by others, then tells."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import pandas
from jax.sharding import Mesh

from fairkd_jax import buckets, files, processes, sharding
from fairkd_jax.config import Stage, Study
from fairkd_jax.study import about, plan, reads, stage, stored
from fairkd_jax.study.check import check
from fairkd_jax.train import log
from fairkd_jax.train.trackers import check as check_trackers
from fairkd_jax.types import Path

DEAF = 20.0  # seconds after which a signal that Python could not handle ends the process


def table_of_stages(planned: list[plan.Run], workdir: Path | str) -> str:
    """What `--dry_run` prints: stages by kind, model and method; done, partial, missing, shared."""
    users = Counter(s.identity for run in planned for s in plan.stages([run]))
    workdir, rows = buckets.path(workdir), []
    for one in plan.stages(planned):
        train = one.kind == "train"
        method = getattr(one.config, "debias", getattr(one.config, "infer", {"name": ""}))
        row = {
            "stage": one.kind,
            "model": plan.model_name(one.config.model) if hasattr(one.config, "model") else "",
            "debias": method["name"],
            "distill": "+".join(d["name"] for d in one.config.distill) if train else "",
            "decide": (getattr(one.config, "decide", None) or {"name": ""})["name"],
            "reads": ", ".join(sorted(one.inputs)),
        }
        found = stored.state_of(one, workdir)
        state = {s: int(found == s) for s in stored.STATES}
        rows.append(row | state | {"shared": int(users[one.identity] > 1)})
    frame = pandas.DataFrame(rows)
    if not frame["decide"].any():
        del frame["decide"]
    numbers = [*stored.STATES, "shared"]
    table = frame.groupby([c for c in frame if c not in numbers], sort=False).sum().reset_index()
    total = ", ".join(f"{frame[s].sum()} {s}" for s in stored.STATES)
    return f"{table.to_string(index=False)}\n{len(planned)} runs, {len(frame)} stages: {total}"


@runtime_checkable
class Executor(Protocol):
    """Who runs stages: this process, or others that it asks."""

    def device(self) -> str:
        """The devices that stages run on, as reports call them."""

    def run(self, stages: list[Stage], place: stage.Place, name: str, leave: bool) -> None:
        """All stages, which come after their inputs, with a bar of that name over them.

        `leave`: the bar is left standing. Raises `processes.Interrupted` where it is asked to stop.
        """


class Here:
    """This process, or all processes of this run together, one stage after the other."""

    def device(self) -> str:
        """All devices of this run."""
        return about.device()

    def run(self, stages: list[Stage], place: stage.Place, name: str, leave: bool) -> None:
        """In the order in which they come."""
        with log.progress(total=len(stages), desc=name, unit="stage", leave=leave) as bar:
            for one in stages:
                if processes.agree(place.stopping):
                    raise processes.Interrupted(f"stopped before stage {one.identity}")
                stage.run(one, place)
                bar.update()


def run(
    study: Study,
    workdir: Path | str,
    mesh: Mesh | None = None,
    given: Mapping[str, Any] | None = None,
    trackers: tuple[str, ...] = (),
    executor: Executor | None = None,
) -> Path:
    """All stages of a study that are not done yet, with a bar over them; then `study.json`.

    On all devices, where no mesh says otherwise; `given` as in `check`, `trackers` by name as in
    trackers.py; in this process, unless an `executor` runs stages. Returns the study's own folder.
    """
    start = time.perf_counter()
    check_trackers(trackers)
    workdir, executor = files.for_nets(workdir), executor or Here()
    mesh = sharding.make_mesh() if mesh is None else mesh
    planned = check(study, given)
    on = executor.device()
    about.write_study(study, planned, workdir, seconds=None, on=on)
    run_stages(planned, workdir, mesh, study.name, trackers, executor=executor)
    seconds = round(time.perf_counter() - start, 1)
    return about.write_study(study, planned, workdir, seconds=seconds, on=on)


def run_stages(
    planned: list[plan.Run],
    workdir: Path,
    mesh: Mesh,
    name: str,
    trackers: tuple[str, ...] = (),
    leave: bool = True,
    executor: Executor | None = None,
) -> None:
    """The stages of some runs unless they are done, with a bar that may be left standing.

    Runs that differ in their seed alone follow each other: they share compiled programs.
    Raises `processes.Interrupted` where SIGTERM asked to stop, `reads.Changed` where a file that
    they read changes meanwhile.
    """
    cells = list(dict.fromkeys(tuple(run.axes.values()) for run in planned))
    ordered = plan.stages(sorted(planned, key=lambda run: cells.index(tuple(run.axes.values()))))
    with stop_on_sigterm() as stopping:
        place = stage.Place(workdir, mesh, stopping, reads.watch(ordered), trackers)
        (executor or Here()).run(ordered, place, name, leave)
        processes.lead(place.watch)


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[Any]:
    """Within it SIGTERM does not kill: the yielded function turns True, and runs save and stop.

    A process that cannot hear it, since it waits for another that is gone, ends after `DEAF` s.
    """
    asked = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def end_if_deaf() -> None:
        while number := os.read(reader, 1):  # written when a signal comes, whatever Python does
            if number[0] == signal.SIGTERM and not asked.wait(DEAF):
                print("SIGTERM while waiting for other processes: ended", file=sys.stderr)
                os._exit(75)

    previous = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    listener = threading.Thread(target=end_if_deaf, daemon=True)
    listener.start()
    try:
        yield asked.is_set
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGTERM, previous)
        os.close(writer)  # ends the listener
        listener.join()
        os.close(reader)
