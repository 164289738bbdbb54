"""Workers on Ray (arXiv 1712.05889): stages of a study side by side, each a task of an actor.

Where workers run, whether they live and how they are called is Ray's part; who may write where is
the claim's (claim.py). Here stands which stage a worker is given, and what becomes of a stage whose
worker died.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging

from fairkd_jax import files, processes
from fairkd_jax.config import Stage, as_dict
from fairkd_jax.study import about, cost, stage, stored
from fairkd_jax.study.agenda import Agenda
from fairkd_jax.study.share import Share, share
from fairkd_jax.study.worker import DONE, FAILED, STOPPED, Setup, Worker
from fairkd_jax.train import log

GIVEN_BACK = 3  # times that a stage goes on after its worker died
FAILS = 3  # times in a row that a worker may die before it has begun
LOOK = 1.0  # seconds between looks at the bar and at what asks to stop
STORE = 80 * 2**20  # bytes of Ray's object store, near the least: nothing large is sent
LOST = "lost"  # beside the ends that worker.py knows: the worker died
SENT = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NPROC", "PJRT_NPROC", "OMP_NUM_THREADS")
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


class Failed(RuntimeError):
    """Workers could not do a stage, or begin; the message says which, why, and where the log is."""


@contextlib.contextmanager
def hired(
    asked: str, cluster: str | None, on_cpu: bool, setup: Setup, devices: int = 1
) -> Iterator["Fleet"]:
    """Workers for as long as they are needed: a number of them, or "auto", as machines have room.

    On this machine, or on those of a Ray cluster that is there. `on_cpu`: whatever else there is;
    JAX then makes so many devices. Raises ValueError for what they cannot be, ModuleNotFoundError
    naming the extra that is missing, ConnectionError where no cluster answers.
    """
    if asked != "auto" and not (asked.isdecimal() and int(asked)):
        raise ValueError(f"--workers={asked}: expected a number from 1 up, or auto")
    if cluster and "://" in cluster:
        raise ValueError(
            f"--cluster={cluster}: a machine of the cluster leads a study, and names it as "
            "HOST:PORT or auto"
        )
    if importlib.util.find_spec("ray") is None:
        raise ModuleNotFoundError("workers need Ray: pip install 'fairkd_jax[fleet]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it tells no one that it is used
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # processes without OMP below
    import ray

    here = {} if cluster else {"num_cpus": _cores(), "object_store_memory": STORE}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(cluster or "local", include_dashboard=False, logging_level="error", **here)
    except (ConnectionError, TimeoutError) as error:
        raise ConnectionError(
            f"--cluster={cluster}: no Ray cluster answers: {error}. Where it asks for a "
            "token, set RAY_AUTH_MODE=token"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        number = None if asked == "auto" else int(asked)
        yield Fleet(share(number, nodes, on_cpu, devices), setup)
    finally:
        ray.shutdown()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@dataclasses.dataclass
class Seat:
    """The place of a worker. Where one dies, another takes it."""

    number: int
    actor: Any = None
    waits: Any = None  # reference to the answer to what it was asked last; None: it is idle
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # that it told of itself
    opened: bool = False  # is it prepared to run stages?
    stage: Stage | None = None  # that it runs
    programs: set[str] = dataclasses.field(default_factory=set)  # that it has compiled
    failed: int = 0  # deaths in a row, of it and those before it here, before any was given a stage

    def __str__(self) -> str:
        told = "process {pid} on {host}, log {log}".format_map(self.facts) if self.facts else "new"
        return f"worker {self.number} ({told})"


class Fleet:
    """Workers, and which of them runs what: an executor, as execute.py asks for one."""

    def __init__(self, each: Share, setup: Setup):
        self.share = each
        self.seats: list[Seat] = []
        self._setup = dataclasses.replace(setup, cores=each.cores)
        self.fill(1)

    def device(self) -> str:
        """The devices of a worker. Raises Failed where none begins."""
        while not (seat := self.seats[0]).facts:
            told, seat.waits = answer(seat.waits), None
            self.begun(seat, told)
        return seat.facts["device"]

    def run(self, stages: list[Stage], place: stage.Place, name: str, leave: bool) -> None:
        """Stages whose inputs are done side by side, longest remaining path first.

        Raises Failed where a stage could not be done, `files.Changed` and `processes.Interrupted`
        as one process does; what runs then saves and stops. Where a worker died too often at a
        stage, all that do not need it are done before Failed is raised.
        """
        costs = {one.identity: cost.of(one) for one in stages}
        missing = {one.identity: one for one in stages if not _is_done(one, place)}
        agenda = Agenda(missing.values(), cost.remaining(missing))
        self.fill(min(self.share.number, len(agenda)))
        done = sum(costs.values()) - sum(costs[identity] for identity in missing)
        options = {"bar_format": BAR, "smoothing": 0, "initial": done, "leave": leave}
        with log.progress(total=sum(costs.values()), desc=name, **options) as bar:
            _Shift(self, agenda, place, name, costs, bar).run()

    def fill(self, number: int) -> None:
        """At least so many workers are asked for."""
        self.seats += [self._hired(i + 1) for i in range(len(self.seats), number)]

    def replace(self, seat: Seat) -> None:
        """Another worker is asked for in the place of one that died."""
        import ray

        ray.kill(seat.actor)  # where it only seemed to be dead
        self.seats[seat.number - 1] = self._hired(seat.number, seat.failed)

    def _hired(self, number: int, failed: int = 0) -> Seat:
        """Asks Ray for a worker, which will tell that it has begun."""
        import ray

        variables = {name: os.environ[name] for name in SENT if name in os.environ}
        # Ray would have LAPACK use as many threads as a worker has cores: see `worker.own_cores`
        variables.setdefault("OMP_NUM_THREADS", str(_cores()))
        # its code travels: where Python is to look for ours it is told only as it starts
        ray.cloudpickle.register_pickle_by_value(sys.modules[Worker.__module__])
        kind = ray.remote(Worker).options(
            runtime_env={"env_vars": variables},
            scheduling_strategy="SPREAD",
            **self.share.reserved,
        )
        actor = kind.remote()
        return Seat(number, actor, actor.start.remote(self._setup), failed=failed)

    def begun(self, seat: Seat, told: Mapping[str, Any]) -> None:
        """What a worker says of itself; where it died instead, another is asked for.

        Raises Failed where that happens again and again, or where it cannot begin.
        """
        if told["state"] == LOST:
            seat.failed += 1
            logging.warning("%s died before it had begun: %s", seat, told["why"])
            if seat.failed == FAILS:
                raise Failed(f"{seat} died {FAILS} times before it had begun: {told['why']}")
            self.replace(seat)
        elif told["state"] == FAILED:
            raise Failed(f"{seat} cannot begin: {told['why']}")
        elif not seat.facts:
            seat.facts = told
            self._check_alike(seat)

    def _check_alike(self, seat: Seat) -> None:
        """Raises Failed for a worker with other versions; warns of one with other devices."""
        ours = about.versions()
        if other := {k: v for k, v in seat.facts["versions"].items() if v != ours[k]}:
            wanted = {name: ours[name] for name in other}
            raise Failed(f"{seat} has {other}, and the process that leads {wanted}: install alike")
        if others := {s.facts["device"] for s in self.seats if s.facts} - {seat.facts["device"]}:
            logging.warning(
                "%s has %s, others have %s: nets trained there differ in their last bits",
                seat,
                seat.facts["device"],
                ", ".join(others),
            )


def answer(reference: Any) -> dict[str, Any]:
    """What a worker answered; where it died, why. Waits for it."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.TaskCancelledError:
        return {"state": STOPPED}
    except ray.exceptions.RayTaskError:  # of the code in between: what is asked for ends in words
        raise
    except ray.exceptions.RayError as error:
        told = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
        told = told[max(0, told.find("Worker exit type")) :]
        short = told if len(told) < 300 else f"{told[:140]} ... {told[-140:]}"
        return {"state": LOST, "why": short}


def _is_done(one: Stage, place: stage.Place) -> bool:
    if done := stored.state_of(one, place.workdir) == "done":
        stored.refresh(place.folder(one), one)
    return done


class _Shift:
    """The workers' way through the stages of one study."""

    def __init__(
        self,
        fleet: Fleet,
        agenda: Agenda,
        place: stage.Place,
        name: str,
        costs: Mapping[str, float],
        bar: Any,
    ):
        self.fleet, self.agenda, self.place, self.bar = fleet, agenda, place, bar
        self.witness = f"{about.folder_of(place.workdir, name).relative_to(place.workdir)}"
        self.witness += f"/{about.STUDY}"
        self.costs, self.deaths = costs, Counter()
        self.programs: dict[str, str] = {}
        self.ended: Exception | None = None  # why no more stages are begun
        self.lost: list[str] = []  # what is said of stages whose workers died too often
        self.left_out = 0  # stages that need them

    def run(self) -> None:
        """Until all is done, or nothing more can be."""
        import ray

        while self._busy() or (self.agenda and not self.ended):
            if not self.ended:
                self._give()
            waits = {s.waits: s for s in self.fleet.seats if s.waits is not None}
            found, _ = ray.wait([*waits], timeout=LOOK)
            try:
                for reference in found:
                    self._take(waits[reference], answer(reference))
                if self.place.stopping():
                    raise processes.Interrupted(
                        f"stopped with {len(self.agenda) + len(self._busy())} stages to do"
                    )
            except (Failed, files.Changed, processes.Interrupted) as why:
                self._end(why)
            self._show()
        if self.ended:
            raise self.ended
        if self.lost:
            raise Failed(
                f"{'; '.join(self.lost)}. {self.left_out} stages need what is missing, all others "
                "are done. The same command tries again"
            )

    def _busy(self) -> list[Seat]:
        return [seat for seat in self.fleet.seats if seat.stage is not None]

    def _give(self) -> None:
        """Idle workers are given stages, if they are prepared; else they are prepared."""
        for seat in self.fleet.seats:
            if seat.waits is not None or not seat.facts:
                continue
            if not seat.opened:
                root, trackers = str(self.place.workdir), self.place.trackers
                digest = files.digest(self.place.workdir / self.witness, anew=True)
                seat.waits = seat.actor.open.remote(root, self.witness, digest, trackers)
            elif ready := self.agenda.ready():
                seat.stage, seat.failed = self.agenda.take(self._choice(seat, ready)), 0
                seat.programs.add(self._program(seat.stage))
                seat.waits = seat.actor.work.remote(seat.stage)

    def _choice(self, seat: Seat, ready: list[Stage]) -> Stage:
        """Of the longest paths one whose programs the worker has, or else no other has."""
        longest = self.agenda.remaining(ready[0])
        equal = [one for one in ready if self.agenda.remaining(one) == longest]
        others = set().union(*(s.programs for s in self.fleet.seats))
        own = [one for one in equal if self._program(one) in seat.programs]
        new = [one for one in equal if self._program(one) not in others]
        return (own or new or equal)[0]

    def _program(self, one: Stage) -> str:
        """Equal for stages that differ in seeds alone, which compiled programs do not know."""
        if one.identity not in self.programs:
            config = {k: v for k, v in as_dict(one.config).items() if k != "seed"}
            inputs = {name: self._program(before) for name, before in one.inputs.items()}
            content = json.dumps([one.kind, config, inputs], sort_keys=True)
            self.programs[one.identity] = hashlib.sha256(content.encode()).hexdigest()
        return self.programs[one.identity]

    def _take(self, seat: Seat, told: Mapping[str, Any]) -> None:
        """What a worker answered. Raises what ends the study."""
        one, seat.stage, seat.waits = seat.stage, None, None
        if one is None:
            seat.opened = bool(seat.facts)  # else it was only asked to start
            self.fleet.begun(seat, told)
        elif told["state"] == DONE:
            self.agenda.finish(one)
            self.bar.update(self.costs[one.identity])
            self.place.watch()
        elif told["state"] == FAILED:
            self.place.watch()  # it may have changed under it
            raise Failed(f"{_called(one)} failed, {told['why']}: see {seat}")
        elif told["state"] == LOST:
            self._died(seat, one, told["why"])
        else:
            self.agenda.give_back(one)

    def _died(self, seat: Seat, one: Stage, why: str) -> None:
        self.deaths[one.identity] += 1
        times = self.deaths[one.identity]
        logging.warning("%s died at %s, death %d there: %s", seat, _called(one), times, why)
        if times > GIVEN_BACK:
            self.left_out += len(self.agenda.drop(one))
            self.lost.append(f"{_called(one)}: {times} workers died at it, the last {seat}")
        else:
            self.agenda.give_back(one)
        self.fleet.replace(seat)

    def _end(self, why: Exception) -> None:
        """No more stages are begun; those that run save and stop."""
        import ray

        if self.ended is None:
            self.ended = why
            for seat in self._busy():
                ray.cancel(seat.waits)

    def _show(self) -> None:
        """What runs where; how many stages are done."""
        busy = self._busy()
        done = len(self.costs) - len(self.agenda) - len(busy) - self.left_out - len(self.lost)
        running = [f"{s.number}: {s.stage.kind} {s.stage.identity[:6]}" for s in busy]
        told = [f"{done}/{len(self.costs)} stages", *running]
        self.bar.set_postfix_str(", ".join(told), refresh=False)
        self.bar.refresh()


def _called(one: Stage) -> str:
    return f"stage {one.identity} ({one.kind})"
