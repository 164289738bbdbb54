"""A process that has imported all and forks launchers on request, each ready in no time.

One JSON object a line on standard input, one answered on standard output:

    {"argv": ["launch/study.py", ...], "output": FILE, "folder": W, "kill": 17}  -> {"pid": 123}
    the same with "cwd": FOLDER, where it runs
    {"poll": 123}                                                  -> {"status": 0}, null: it runs

`kill`: the process is killed just before its 17th write below `folder` (a file opened for writing,
made, renamed or removed); "writes" in the file OUTPUT.writes counts them where it is not.
`fail`: [errno, 17, "os.rename .*/net"]: from the 17th write on whose event and path hold that
expression, each fails with that error. `largest`: no file takes more bytes, whoever writes it.
"""

import json
import os
import re
import resource
import runpy
import signal
import subprocess
import sys

import pandas  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.datasets  # noqa: F401
from absl import app, flags  # noqa: F401
from ml_collections import config_flags  # noqa: F401

from fairkd_jax.report import html  # noqa: F401
from fairkd_jax.study import execute  # noqa: F401

WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate"}


def count_writes(folder: str, last: int | None, fail: list | None, file: int) -> None:
    """Kills this process before a write, or fails it; says in an open file how many there were."""
    seen, matching = [0], [0]
    code, first, which = fail or (0, 0, "")

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, mode = arguments
            writes = mode & (os.O_WRONLY | os.O_RDWR)
        elif event in WRITES:
            path, writes = arguments[0], True
        else:
            return
        if writes and isinstance(path, str | bytes | os.PathLike):
            name = os.fsdecode(path)
            if name.startswith(folder) and "/claims/" not in name:
                seen[0] += 1
                os.pwrite(file, f"{seen[0]:08}".encode(), 0)
                if seen[0] == last:
                    os.kill(os.getpid(), signal.SIGKILL)
                if code and re.search(which, f"{event} {name}"):
                    matching[0] += 1
                    if matching[0] >= first:
                        raise OSError(code, os.strerror(code), name)

    sys.addaudithook(hook)


def launch(request: dict) -> None:
    """Becomes the launcher."""
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    largest = request.get("largest")
    if largest:  # of the files of the launcher, not of what it says
        output = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=output).stdin.fileno()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.setsid()
    counted = os.open(request["output"] + ".writes", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    count_writes(request["folder"], request.get("kill"), request.get("fail"), counted)
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    if "cwd" in request:
        os.chdir(request["cwd"])
    sys.argv = request["argv"]
    sys.path.insert(0, os.path.dirname(request["argv"][0]))
    runpy.run_path(request["argv"][0], run_name="__main__")


def serve() -> None:
    """Answers until its standard input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = {"status": os.waitstatus_to_exitcode(status) if pid else None}
        else:
            pid = os.fork()
            if not pid:
                try:
                    launch(request)
                    sys.stdout.flush()
                    os._exit(0)
                except SystemExit as end:
                    sys.stdout.flush()
                    os._exit(end.code if isinstance(end.code, int) else bool(end.code))
                except BaseException:
                    import traceback

                    traceback.print_exc()
                    sys.stderr.flush()
                    os._exit(1)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
