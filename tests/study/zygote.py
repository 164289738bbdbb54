"""A process that has imported all and forks launchers on request, each ready in no time.

One JSON object a line on standard input, one answered on standard output:

    {"argv": ["launch/study.py", ...], "output": FILE, "folder": W, "kill": 17}  -> {"pid": 123}
    {"poll": 123}                                                  -> {"status": 0}, null: it runs

`kill`: the process is killed just before its 17th write below `folder` (a file opened for writing,
made, renamed or removed); "writes" in the file OUTPUT.writes counts them where it is not.
"""

import json
import os
import runpy
import signal
import sys

import pandas  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.datasets  # noqa: F401
from absl import app, flags  # noqa: F401
from ml_collections import config_flags  # noqa: F401

from fairkd_jax.report import html  # noqa: F401
from fairkd_jax.study import execute  # noqa: F401

WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate"}


def count_writes(folder: str, last: int | None, file: int) -> None:
    """Kills this process before a write; says in an open file how many there were."""
    seen = [0]

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

    sys.addaudithook(hook)


def launch(request: dict) -> None:
    """Becomes the launcher."""
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.setsid()
    counted = os.open(request["output"] + ".writes", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    count_writes(request["folder"], request.get("kill"), counted)
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
