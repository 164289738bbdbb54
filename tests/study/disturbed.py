"""Launchers in forked processes, killed and started again, and whether their numbers are right."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pandas
from conftest import ROOT
from ports import free_port

TINY = pathlib.Path(__file__).parent / "tiny_study.py"
HANG = 60.0  # seconds: longer than any run here; longer on a busy machine is a hang


class Run:
    """A launcher that runs, or has run."""

    def __init__(self, zygote: "Zygote", pid: int, output: pathlib.Path):
        self.zygote, self.pid, self.output = zygote, pid, output
        self.status: int | None = None

    def poll(self) -> int | None:
        """Its status, None while it runs."""
        if self.status is None:
            self.status = self.zygote.ask({"poll": self.pid})["status"]
        return self.status

    def wait(self, seconds: float = HANG) -> int:
        """Its status. Raises TimeoutError, with what it said, for one that hangs."""
        until = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > until:
                self.kill()
                raise TimeoutError(f"it hangs:\n{self.said[-3000:]}")
            time.sleep(0.02)
        return self.status

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        while self.poll() is None:
            time.sleep(0.01)

    @property
    def said(self) -> str:
        """Standard output and error."""
        return self.output.read_text(errors="replace")

    @property
    def last(self) -> str:
        """The last line that it said."""
        return self.said.strip().splitlines()[-1]

    @property
    def writes(self) -> int:
        """How often it wrote below the work folder."""
        return int(pathlib.Path(f"{self.output}.writes").read_text() or 0)


class Zygote:
    """See zygote.py."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.count = folder, 0
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__).parent / "zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def ask(self, request: dict) -> dict:
        """One request, one answer."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, launcher: str, workdir: pathlib.Path, *flags: str, **disturbance: Any) -> Run:
        """Starts a launcher on a work folder; `kill`, `fail` or `largest` as in zygote.py."""
        argv = [str(ROOT / "launch" / f"{launcher}.py"), f"--workdir={workdir}", *flags]
        return self.fork(argv, folder=str(workdir), **disturbance)

    def fork(self, argv: list[str], **request: Any) -> Run:
        """Starts a file of Python; the request as in zygote.py."""
        self.count += 1
        output = self.folder / f"output{self.count}"
        for name in (output, f"{output}.writes"):  # it may be asked before the process has begun
            pathlib.Path(name).touch()
        request = {"argv": argv, "output": str(output), "folder": "", **request}
        return Run(self, self.ask(request)["pid"], output)

    def study(self, workdir: pathlib.Path, *flags: str, **disturbance: Any) -> Run:
        """Starts the tiny study."""
        return self.start("study", workdir, f"--config={TINY}", *flags, **disturbance)

    def two(self, first: pathlib.Path, second: pathlib.Path, **disturbance: Any) -> list[Run]:
        """Starts the tiny study as two processes of one run; the first is disturbed."""
        hosts = f"--coordinator=localhost:{free_port()}", "--num_processes=2"
        return [
            self.study(first, *hosts, "--process_id=0", **disturbance),
            self.study(second, *hosts, "--process_id=1"),
        ]

    def close(self) -> None:
        """Ends it."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def zygote(folder: pathlib.Path) -> Iterator[Zygote]:
    """A zygote for as long as it is needed."""
    made = Zygote(folder)
    try:
        yield made
    finally:
        made.close()


def records(workdir: pathlib.Path, name: str = "tiny") -> pandas.DataFrame:
    """What the report of a study holds."""
    return pandas.read_csv(workdir / "studies" / name / "report" / "records.csv")


def assert_ends_as(run: Run, workdir: pathlib.Path, unbroken: pathlib.Path) -> None:
    """The run ends well, with the records of a study that nothing disturbed, and nothing left."""
    assert run.wait() == 0, run.said[-3000:]
    pandas.testing.assert_frame_equal(records(workdir), records(unbroken), check_exact=True)
    left = [p for p in workdir.rglob("*") if p.suffix == ".part" or "-tmp" in p.name]
    left += [p for p in workdir.glob("stages/*/*") if p.name in ("claims", "checkpoints")]
    left += [p for p in workdir.rglob("*.partial-*")]
    assert not left, left
