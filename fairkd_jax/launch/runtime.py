"""Flags that every launcher shares, how JAX is started from them, and how a launcher ends.

A mistake that a check of ours found ends in its message alone (`--debug` shows where), an error of
the program with its traceback; status 1. Status 74: the disk is full, 75: asked to end.

Python finds modules in the folder of the command too: plugins, and what configs import. It looks
there last, so that nothing there takes the place of what is installed, and not at all where Python
was told to be safe (`python -P`, PYTHONSAFEPATH).
"""

import dis
import errno
import functools
import os
import pathlib
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable

import jax
from absl import app, flags, logging
from jax.sharding import Mesh

from fairkd_jax import buckets, compiled, processes, sharding
from fairkd_jax.launch import rollcall
from fairkd_jax.types import Path

FAKE_DEVICES = flags.DEFINE_integer(
    "fake_devices", 0, "Pretend this many CPU devices, to try shardings on a laptop."
)
FSDP = flags.DEFINE_integer(
    "fsdp", 1, "Devices that share one copy of large parameters; must divide their number."
)
COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache",
    None,
    "Folder that keeps compiled programs for later runs on machines of this kind; left out, "
    "fairkd_jax in the user's cache; empty, none.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "host:port of process 0. On TPU slices, under Slurm, Open MPI or Kubernetes JAX finds it.",
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes; with --coordinator."
)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is; with --coordinator.")
WAIT_SECONDS = flags.DEFINE_integer("wait_seconds", 60, "For the other hosts to report.")
DEBUG = flags.DEFINE_bool("debug", False, "Show where an error was raised, whatever it is.")
FAREWELL_SECONDS = 5.0
HEARTBEAT_SECONDS = 40

# What checks raise. By anything else, or raised by a library, the program is at fault.
TOLD = (ValueError, RuntimeError, ArithmeticError, ImportError, flags.Error)
LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


def start(workdir: Path | None = None, *, tight: bool = False) -> Mesh:
    """Devices, other hosts and the mesh as the flags say; call it before anything else uses JAX.

    `tight`: memory matters more than time, as it does where parameters are split.
    Raises TimeoutError naming the hosts that do not report in time, and `rollcall.NotShared` naming
    those that do not see the work folder of process 0.
    """
    if tight or FSDP.value > 1:
        compiled.order_for_memory()
    pretend()
    _join_hosts(workdir)
    if folder := programs():
        compiled.keep(pathlib.Path(folder))
    if jax.process_index() == 0:
        kind = jax.devices()[0].device_kind
        say(f"{jax.process_count()} process(es), {jax.device_count()} x {kind}")
    return sharding.make_mesh(FSDP.value)


def programs() -> str:
    """The folder of compiled programs as the flags say; "": none."""
    if COMPILATION_CACHE.value == "":
        return ""
    return str(pathlib.Path(COMPILATION_CACHE.value or buckets.cache()).expanduser())


def pretend() -> None:
    """CPU devices, where they are asked for."""
    if FAKE_DEVICES.value:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", FAKE_DEVICES.value)


def _join_hosts(workdir: Path | None) -> None:
    """Meets the other processes before anything is compiled."""
    given = (COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if None in given and any(v is not None for v in given):
        raise ValueError("--coordinator, --num_processes and --process_id go together")
    hosts = rollcall.find(WAIT_SECONDS.value) if None in given else rollcall.Hosts(*given)
    if hosts is None:
        return
    say(f"process {hosts.index} of {hosts.count} waits for the others")
    rollcall.meet(hosts, WAIT_SECONDS.value, workdir)  # names who is missing, which JAX does not
    jax.distributed.initialize(
        *given,
        initialization_timeout=WAIT_SECONDS.value,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,  # others wait for one that is gone no longer
    )


def script(main: Callable[[list[str]], None]) -> Callable[[], None]:
    """A console script: reads flags, runs `main`, tells how it ended; its module is the help."""

    def run() -> None:
        if not sys.flags.safe_path:
            sys.path.append(os.getcwd())
        name = f"fairkd-{main.__module__.rpartition('.')[2]}"
        called = pathlib.Path(sys.argv[0])
        command = f"python {called}" if called.suffix == ".py" else called.name
        about = sys.modules[main.__module__].__doc__ or ""
        sys.modules["__main__"].__doc__ = about.replace(name, command)
        for flag in flags.FLAGS.get_key_flags_for_module(main.__module__):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
        app.run(told(main), flags_parser=_parse)

    return run


def _parse(argv: list[str]) -> list[str]:
    """Reads the flags. What libraries raise meanwhile is about flags too, and told as they are."""
    try:
        rest = app.parse_flags_with_usage(argv)
    except Exception as error:
        _tell(error, mistake=True, place="flags: ")
        sys.exit(1)
    if not flags.FLAGS["verbosity"].present:  # the storage layer reports every file at INFO
        logging.set_verbosity(logging.WARNING)
    if rest[1:]:
        say(f"error: unexpected {' '.join(rest[1:])!r}: all is given by flags, --NAME=VALUE")
        sys.exit(1)
    return rest


def told(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """`main`, whose last line says why it ended, in the status too (see above)."""

    @functools.wraps(main)
    def run(argv: list[str]) -> None:
        try:
            main(argv)
        except processes.Interrupted as stop:
            say(f"{stop}: the same command goes on")
            sys.exit(75)
        except Exception as error:
            full = _disk_is_full(error)
            _tell(error, mistake=not full and _is_mistake(error))
            if full:
                values = flags.FLAGS.flag_values_dict()
                place = values.get("folder") or values.get("workdir") or "this machine"
                say(f"No space is left on the disk of {place}: free some; the same command goes on")
            _end(74 if full else 1)

    return run


def _tell(error: Exception, *, mistake: bool, place: str = "") -> None:
    if mistake and not flags.FLAGS["debug"].value:
        words = error.args[0] if isinstance(error, KeyError) and error.args else error
        say(f"error: {place}{words}")
    else:
        traceback.print_exception(error)


def _is_mistake(error: Exception) -> bool:
    """Did a `raise` of a check say so: of ours, or of a plugin? What files did not give is, too."""
    if isinstance(error, OSError):
        return True
    last = error.__traceback__
    while last.tb_next:
        last = last.tb_next
    code, module = last.tb_frame.f_code, str(last.tb_frame.f_globals.get("__name__"))
    raised = code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    ours = module.startswith("fairkd_jax.") or not code.co_filename.startswith(("<", *LIBRARIES))
    return isinstance(error, TOLD) and raised and ours


def _end(status: int) -> None:
    """Ends this process with nothing said after its last line, whoever else waits for it."""
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # threads of a failed save tell it again
    if jax.distributed.is_initialized():
        # where all end for one reason, they meet; else they never do: others may wait for its save
        farewell = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        farewell.start()
        farewell.join(FAREWELL_SECONDS)
        os._exit(status)
    sys.exit(status)


def _disk_is_full(error: BaseException | None) -> bool:
    """Is that what an error, or one that it came from, tells? Storage layers tell it in words."""
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or any(os.strerror(n) in str(error) for n in (errno.ENOSPC, errno.EDQUOT)):
            return True
        error = error.__cause__ or error.__context__
    return False


def say(text: str) -> None:
    """To whoever watches: not what a launcher prints."""
    print(text, file=sys.stderr, flush=True)
