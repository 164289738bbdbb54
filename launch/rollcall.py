"""All hosts report to process 0 before JAX is started, so that a missing one is named.

`jax.distributed.initialize` also waits, but ends the process without saying for whom.
"""

import dataclasses
import os
import re
import socket
import time
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Where process 0 is, how many processes there are, which one this is."""

    coordinator: str  # host:port
    count: int
    index: int


def find(environment: Mapping[str, str] = os.environ) -> Hosts | None:
    """The hosts of a TPU slice or of a Slurm step, as their environment tells; None elsewhere."""
    workers = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if len(workers) > 1:
        return Hosts(f"{workers[0]}:8476", len(workers), int(environment["TPU_WORKER_ID"]))
    count = int(environment.get("SLURM_NTASKS", 1))
    if count > 1:
        # "node[003-007,9]" begins with node003.
        first = re.match(r"([^\[,]+)(?:\[(\d+))?", environment["SLURM_STEP_NODELIST"])
        port = 2**15 + int(environment["SLURM_JOB_ID"]) % 2**12
        name = first[1] + (first[2] or "")
        return Hosts(f"{name}:{port}", count, int(environment["SLURM_PROCID"]))
    return None


def meet(hosts: Hosts, seconds: float) -> None:
    """Returns when all have reported. Raises TimeoutError naming those that did not in time."""
    name, port = hosts.coordinator.rsplit(":", 1)
    deadline = time.monotonic() + seconds
    if hosts.index == 0:
        _wait_for_all(int(port) + 1, hosts.count, deadline, seconds)
    else:
        _report((name, int(port) + 1), hosts.index, deadline, seconds)


def _wait_for_all(port: int, count: int, deadline: float, seconds: float) -> None:
    missing, open_lines = set(range(1, count)), []
    with socket.create_server(("", port), reuse_port=False) as server:
        while missing:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                line, _ = server.accept()
            except TimeoutError:
                names = ", ".join(f"process {i}" for i in sorted(missing))
                raise TimeoutError(
                    f"{names} of {count} did not report to process 0 within {seconds:.0f} s: "
                    "start the same command on every host"
                ) from None
            line.settimeout(seconds)
            missing.discard(int(line.recv(16)))
            open_lines.append(line)
        for line in open_lines:
            line.sendall(b"go")
            line.close()


def _report(address: tuple[str, int], index: int, deadline: float, seconds: float) -> None:
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(address, timeout=1) as line:
                line.sendall(str(index).encode())
                line.settimeout(max(deadline - time.monotonic(), 0.001))
                if line.recv(2) == b"go":
                    return
        except (ConnectionError, TimeoutError, socket.gaierror):
            time.sleep(0.2)
    host, port = address
    raise TimeoutError(
        f"process {index} got no answer from process 0 at {host}:{port} within {seconds:.0f} s"
    )
