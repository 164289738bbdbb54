"""A claim on a folder: who may write there, until when. Works where there is no file locking.

Lamport's bakery (CACM 17(8), 1974) over files, each written by one claimant alone: it says that it
chooses a number, takes one above all it sees, and waits for every smaller one. It needs only that a
file is written whole and is then seen in a listing, which a bucket promises too.

A claim whose process is gone is taken over: at once on the same machine, elsewhere when it has not
been renewed for `LEASE` seconds as measured by the one who waits, whatever the clocks say.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator

import jax
from absl import logging

from fairkd_jax import buckets, files, processes
from fairkd_jax.types import Path

LEASE = 30.0  # seconds without renewal after which a claim is void
LOOK = 0.2  # seconds between attempts
BEAT = 3.0  # seconds between renewals
FOLDER = "claims"


class ClaimLost(RuntimeError):
    """Another process took the folder over, or the claim could not be renewed in time."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that made a claim."""

    host: str
    process: int
    machine: str = ""  # equal only where process numbers mean the same processes; "": not known
    started: str = ""  # when the process started: numbers are used again

    def gone(self) -> bool:
        """Is it known to have ended? Known of processes of this machine alone."""
        here = this_process()
        if not self.machine or self.machine != here.machine:
            return False
        state, started = _process(self.process)
        return state in ("", "Z", "X") or started != self.started


def this_process() -> Holder:
    """The one that runs this."""
    return Holder(socket.gethostname(), os.getpid(), _machine(), _process(os.getpid())[1])


def _machine() -> str:
    """This boot of this machine and its numbering of processes; "" where there is no /proc."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process(number: int) -> tuple[str, str]:
    """(state, time of start) of a process of this machine; ("", "") where there is none."""
    try:
        text = pathlib.Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return "", ""
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return fields[0], fields[19]


@contextlib.contextmanager
def claimed(folder: Path, stopping: Callable[[], bool] = lambda: False) -> Iterator["Claim"]:
    """A claim on the folder, had by process 0 of the run; waits for one that another has.

    All processes call it together. Raises `processes.Interrupted` where they are asked to stop.
    """
    claim, told = Claim(folder), None

    def attempt() -> dict | None:
        holder = claim.attempt()
        return None if holder is None else {"host": holder.host, "process": holder.process}

    while holder := processes.lead(attempt):
        if holder != told:
            logging.warning(
                "%s is being written by process %d on %s: waiting for it",
                folder,
                holder["process"],
                holder["host"],
            )
        told = holder
        if processes.agree(stopping):
            raise processes.Interrupted(f"stopped waiting for {folder}")
        time.sleep(LOOK)
    try:
        yield claim
    finally:
        if jax.process_index() == 0:
            claim.release()


class Claim:
    """One process's claim on a folder: `attempt()` until it is had, `guard()` before writing."""

    def __init__(self, folder: Path, lease: float = LEASE):
        self.folder, self.lease = folder / FOLDER, lease
        self._holder, self._token = this_process(), secrets.token_hex(6)
        self._path = self.folder / f"{self._token}.json"
        self._number, self._beats, self._renewed = 0, 0, 0.0
        self._seen: dict[str, tuple[str, float]] = {}  # name -> content, since when it is the same
        self._ended = threading.Event()

    def attempt(self) -> Holder | None:
        """None where the folder is now claimed; else who holds it, and nothing is left behind."""
        if others := self._others():
            return others[0][1]
        self._write(0)
        self._number = 1 + max((number for number, *_ in self._others()), default=0)
        self._write(self._number)
        for _ in range(100):
            others = self._others()
            if all(number for number, *_ in others):
                break
            time.sleep(0.02)  # one of them is choosing
        before = [holder for number, holder, name in others if (number, name) < self._place]
        if before:
            files.remove(self._path)
            return before[0]
        threading.Thread(target=self._renew, daemon=True).start()
        return None

    @property
    def _place(self) -> tuple[int, str]:
        return self._number, self._path.name

    def guard(self) -> None:
        """Raises ClaimLost where the folder may be another's by now.

        A machine that slept keeps its claim unless another took the folder over meanwhile.
        """
        late = time.monotonic() - self._renewed
        if self._path.exists() and late > self.lease:
            self._write(self._number)
        if not self._path.exists() or (late > self.lease and self._others()):
            raise ClaimLost(
                f"{self.folder.parent} is no longer claimed by this process (last renewed "
                f"{late:.0f} s ago): another may write there now. The same command goes on"
            )

    def release(self) -> None:
        """Others may claim the folder."""
        self._ended.set()
        files.remove(self._path)
        if buckets.is_local(self.folder):
            with contextlib.suppress(OSError):  # another claimant is there
                files.tidy(self.folder)  # one that is just writing will write again
                self.folder.rmdir()

    def _write(self, number: int) -> None:
        content = dataclasses.asdict(self._holder) | {"number": number, "beat": self._beats}
        for _ in range(10):
            files.make(self.folder)
            try:
                files.write(self._path, json.dumps(content), sync=False)
                break
            except FileNotFoundError:  # one that released its claim removed the folder
                continue
        self._renewed = time.monotonic()

    def _renew(self) -> None:
        while not self._ended.wait(min(BEAT, self.lease / 4)):
            self._beats += 1
            if not self._path.exists():
                return
            try:
                self._write(self._number)
            except OSError:
                continue  # the next may succeed; `guard` tells whether that is in time
            if self._ended.is_set():
                files.remove(self._path)

    def _others(self) -> list[tuple[int, Holder, str]]:
        """(number, holder, file) of all other live claims; those of dead ones are removed."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            if path == self._path:
                continue
            try:
                content = path.read_text()
            except FileNotFoundError:
                continue
            before, since = self._seen.setdefault(path.name, (content, time.monotonic()))
            if before != content:
                self._seen[path.name] = (content, time.monotonic())
            stale = before == content and time.monotonic() - since > self.lease
            try:
                told = json.loads(content)
                names = [f.name for f in dataclasses.fields(Holder)]
                number, holder = int(told["number"]), Holder(**{n: told[n] for n in names})
            except (ValueError, KeyError, TypeError):  # damaged: who it was is not known
                number, holder = 1, Holder("a host that its claim no longer names", 0)
            if stale or holder.gone():
                files.remove(path)
            else:
                found.append((number, holder, path.name))
        return found
