"""What the processes of one run do together: decide, agree to stop, wait for each other."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class Interrupted(RuntimeError):
    """The run was asked to stop, wrote what it had and can go on from there."""


def lead(function: Callable[[], Any]) -> Any:
    """What `function` returns in process 0, told to all; it runs there alone. JSON must say it.

    Where it raises, all processes raise: none is left waiting, and none reads what process 0 may be
    rewriting.
    """
    if jax.process_count() == 1:
        return function()
    failure, told = None, {}
    if jax.process_index() == 0:
        try:
            told = {"value": function()}
        except Exception as error:
            failure, told = error, {"failure": f"{type(error).__name__}: {error}"}
    told = json.loads(_broadcast(json.dumps(told)))
    if failure is not None:
        raise failure
    if "failure" in told:
        raise RuntimeError(f"process 0 stopped: {told['failure']}")
    return told["value"]


def _broadcast(text: str) -> str:
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text.encode()))))
    content = np.zeros(size, np.uint8)
    if jax.process_index() == 0:
        content[:] = np.frombuffer(text.encode(), np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(content), np.uint8)).decode()


def agree(stopping: Callable[[], bool]) -> bool:
    """Whether any process is asked to stop; all must call it together."""
    if jax.process_count() == 1:
        return stopping()
    return bool(np.any(multihost_utils.process_allgather(np.asarray(stopping()))))


def meet(what: str) -> None:
    """All processes wait here for each other."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
