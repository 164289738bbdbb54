"""All hosts report to process 0 before JAX is started, so that a missing one is named.

So is one that does not see the work folder which all must share.

`jax.distributed.initialize` also waits, but ends the process without saying for whom.
"""

import contextlib
import dataclasses
import re
import secrets
import selectors
import socket
import time
from collections.abc import Mapping
from typing import Any

from fairkd_jax import files
from fairkd_jax.types import Path


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Where process 0 is, how many processes there are, which one this is."""

    coordinator: str  # host:port
    count: int
    index: int


def find(seconds: float) -> Hosts | None:
    """The hosts as JAX itself detects them (TPU slices, Slurm, Open MPI, Kubernetes), or None.

    `seconds`: for those whose names must be waited for.
    """
    # What `jax.distributed.initialize()` asks; there is no public way to ask it and no more.
    from jax._src.clusters import ClusterEnv

    nothing = dict.fromkeys(
        ("coordinator_address", "num_processes", "process_id", "local_device_ids")
    )
    address, count, index, _ = ClusterEnv.auto_detect_unset_distributed_params(
        **nothing, cluster_detection_method=None, initialization_timeout=round(seconds)
    )
    return None if address is None or count == 1 else Hosts(address, count, index)


class NotShared(RuntimeError):
    """Processes that do not see the work folder of process 0."""


def meet(hosts: Hosts, seconds: float, workdir: Path | None = None) -> None:
    """Returns when all have reported, and see in `workdir` what process 0 wrote there.

    Raises TimeoutError naming those that did not report in time, NotShared naming those that do not
    see the folder.
    """
    name, port = hosts.coordinator.rsplit(":", 1)
    deadline = time.monotonic() + seconds
    # The coordinator's own port is JAX's; the one before it is always there.
    if hosts.index == 0:
        _wait_for_all(int(port) - 1, hosts.count, deadline, seconds, workdir)
    else:
        _report((name, int(port) - 1), hosts.index, deadline, seconds, workdir)


# Lines of text. Another process: "fairkd_jax INDEX"; process 0, when all are there: "token NAME", a
# file in the work folder; the other: "sees it" or where it looked; process 0: "go" or "stop ...".
HELLO = re.compile(r"fairkd_jax (\d+)")
LONGEST = 4096  # bytes of a line
LOOK_SECONDS = 10.0  # for a new file to be seen on another host


@dataclasses.dataclass
class _Line:
    """A connection and the text that came so far."""

    socket: socket.socket
    text: bytes = b""

    def say(self, text: str) -> None:
        self.socket.sendall(text.encode() + b"\n")

    def hear(self, deadline: float) -> str:
        """The next line. Raises TimeoutError, ConnectionError where there is none."""
        while b"\n" not in self.text:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            part = self.socket.recv(LONGEST)
            if not part or len(self.text) > LONGEST:
                raise ConnectionError("no line came")
            self.text += part
        line, _, self.text = self.text.partition(b"\n")
        return line.decode(errors="replace")


def _wait_for_all(
    port: int, count: int, deadline: float, seconds: float, workdir: Path | None
) -> None:
    there: dict[int, _Line] = {}
    with (
        socket.create_server(("", port), reuse_port=False) as server,
        selectors.DefaultSelector() as waiting,
    ):
        waiting.register(server, selectors.EVENT_READ)
        while len(there) < count - 1 and (left := deadline - time.monotonic()) > 0:
            for key, _ in waiting.select(left):
                _take(server, key, waiting, there, count)
        for key in [k for k in waiting.get_map().values() if k.data]:  # that said nothing
            key.data.socket.close()
    if missing := sorted({*range(1, count)} - {*there}):
        for line in there.values():
            line.socket.close()
        raise TimeoutError(
            f"{', '.join(f'process {i}' for i in missing)} of {count} did not report to process 0 "
            f"within {seconds:.0f} s: start the same command on every host"
        )
    _agree_on_folder(there, workdir)


def _take(
    server: socket.socket, key: Any, waiting: Any, there: dict[int, _Line], count: int
) -> None:
    """Accepts a connection or reads of one; strangers are let go, silent ones wait unheard."""
    if key.fileobj is server:
        connection, _ = server.accept()
        connection.setblocking(False)
        waiting.register(connection, selectors.EVENT_READ, _Line(connection))
        return
    line = key.data
    try:
        part = line.socket.recv(LONGEST)
    except OSError:
        part = b""
    line.text += part
    whole = b"\n" in line.text
    if part and not whole and len(line.text) < LONGEST:
        return
    waiting.unregister(line.socket)
    first, _, line.text = line.text.partition(b"\n")
    hello = HELLO.fullmatch(first.decode(errors="replace")) if part and whole else None
    if hello and 0 < int(hello[1]) < count:
        there[int(hello[1])] = line  # a process that came again counts once
    else:
        line.socket.close()


def _agree_on_folder(there: Mapping[int, _Line], workdir: Path | None) -> None:
    token = f".rollcall-{secrets.token_hex(8)}" if workdir else ""
    if workdir:
        files.make(workdir)
        (workdir / token).write_text("Is this folder seen by all processes?\n")
    try:
        for line in there.values():
            line.say(f"token {token}")
        until = time.monotonic() + LOOK_SECONDS + 5
        blind = {}
        for index, line in sorted(there.items()):
            try:
                answer = line.hear(until)
            except OSError as error:
                answer = f"no answer: {error}"
            if answer != "sees it":
                blind[index] = answer
    finally:
        if workdir:
            (workdir / token).unlink(missing_ok=True)
    names = "; ".join(f"process {i}, {where}" for i, where in blind.items())
    verdict = (
        f"stop {names} does not see what process 0 on {socket.gethostname()} wrote into {workdir}: "
        "give a --workdir that all hosts share"
    )
    for line in there.values():
        with contextlib.suppress(OSError):  # one that is gone is named already
            line.say(verdict if blind else "go")
            line.socket.close()
    if blind:
        raise NotShared(verdict.removeprefix("stop "))


def _report(
    address: tuple[str, int],
    index: int,
    deadline: float,
    seconds: float,
    workdir: Path | None,
) -> None:
    host, port = address
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(address, timeout=1) as connection:
                line = _Line(connection)
                line.say(f"fairkd_jax {index}")
                _, _, token = line.hear(deadline).partition(" ")
                line.say(_look(workdir, token))
                verdict = line.hear(time.monotonic() + 2 * LOOK_SECONDS)
        except (OSError, socket.gaierror):  # not there yet, or started again
            time.sleep(0.2)
            continue
        if verdict != "go":
            raise NotShared(verdict.removeprefix("stop "))
        return
    raise TimeoutError(
        f"process {index} got no answer from process 0 at {host}:{port} within {seconds:.0f} s"
    )


def _look(workdir: Path | None, token: str) -> str:
    """What to answer: a shared folder may show a new file late."""
    until = time.monotonic() + LOOK_SECONDS
    while token:
        if workdir is not None and (workdir / token).exists():
            break
        if time.monotonic() > until:
            return f"{workdir} on {socket.gethostname()}"
        time.sleep(0.1)
    return "sees it"
