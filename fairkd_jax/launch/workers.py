"""The flags `--workers` and `--cluster`: others compute, and this process leads them."""

import contextlib
import os
import sys
from collections.abc import Iterator

import jax
from absl import flags, logging
from jax.sharding import Mesh

from fairkd_jax import compiled, sharding
from fairkd_jax.launch import runtime
from fairkd_jax.study import fleet
from fairkd_jax.study.share import Share
from fairkd_jax.study.worker import Setup

WORKERS = flags.DEFINE_string(
    "workers", None, "How many stages run side by side, or auto; without it one process does all."
)
CLUSTER = flags.DEFINE_string("cluster", None, "HOST:PORT of a Ray cluster whose machines work.")
NAMES = {"num_cpus": "core(s)", "num_gpus": "GPU", "TPU": "TPU chip(s)"}  # of what Ray reserves


def asked() -> bool:
    """Is anyone else to compute?"""
    return bool(WORKERS.value or CLUSTER.value)


@contextlib.contextmanager
def leading() -> Iterator[tuple[Mesh, fleet.Fleet]]:
    """(mesh, workers) as the flags say; in the place of `runtime.start`.

    This process then leaves accelerators alone, and sees as many devices as each worker has. Raises
    what `fleet.hired` raises.
    """
    own = runtime.COORDINATOR, runtime.NUM_PROCESSES, runtime.PROCESS_ID
    if any(flag.value is not None for flag in own):
        raise ValueError(
            "--workers are processes by themselves, those of --coordinator are one run: one of both"
        )
    if runtime.FSDP.value > 1:
        compiled.order_for_memory()  # a worker is told of it by its environment
    runtime.pretend()
    values = dict(jax.config.values)
    setup = Setup(
        path=tuple(sys.path),
        folder=os.getcwd(),
        jax=values,
        programs=runtime.programs(),
        verbosity=logging.get_verbosity(),
        fsdp=runtime.FSDP.value,
        cores=0,
    )
    devices = max(1, values["jax_num_cpu_devices"])
    on_cpu = values["jax_platforms"] == "cpu"
    number = WORKERS.value or "auto"
    with fleet.hired(number, CLUSTER.value, on_cpu, setup, devices) as crew:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", crew.share.devices)
        runtime.say(f"{crew.share.number} worker(s), each with {_reserved(crew.share)}")
        yield sharding.make_mesh(runtime.FSDP.value), crew


def _reserved(share: Share) -> str:
    what = {**share.reserved, **share.reserved.get("resources", {})}
    return " and ".join(f"{what[k]:g} {name}" for k, name in NAMES.items() if what.get(k))
