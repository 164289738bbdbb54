"""Workers on Ray: what each is given, and studies that end with the records of one process."""

import importlib.util
import json
import os
import pathlib
import re
import signal
import time

import numpy as np
import pandas
import pytest
from disturbed import Run, assert_ends_as, records, zygote

from fairkd_jax.study.share import Share, share

GIB = 2**30
HANG = 900.0  # seconds: two processes import and compile all that one does, and Ray begins

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="workers need Ray: install .[fleet]"
)


def cpu(cores: int, memory: int = 64) -> dict[str, float]:
    return {"CPU": float(cores), "memory": float(memory * GIB)}


GPUS = cpu(16) | {"GPU": 4.0}
TPUS = cpu(96) | {"TPU": 4.0}


@pytest.mark.quick
@pytest.mark.parametrize(
    ("asked", "nodes", "expected"),
    [
        (2, [cpu(2)], Share(2, {"num_cpus": 1}, 1, 1)),
        (1, [cpu(2)], Share(1, {"num_cpus": 2}, 1, 2)),
        (3, [cpu(8)], Share(3, {"num_cpus": 2}, 1, 2)),
        (4, [cpu(2)], Share(4, {"num_cpus": 0.5}, 1)),
        (3, [cpu(3), cpu(3)], Share(3, {"num_cpus": 1}, 1, 1)),  # of two each, one would not fit
        (None, [cpu(8), cpu(4)], Share(12, {"num_cpus": 1}, 1, 1)),
        (None, [cpu(8, memory=6)], Share(3, {"num_cpus": 2}, 1, 2)),
        (None, [GPUS, GPUS], Share(8, {"num_cpus": 0, "num_gpus": 1}, 1)),
        (3, [GPUS], Share(3, {"num_cpus": 0, "num_gpus": 1}, 1)),
        (None, [TPUS, TPUS], Share(2, {"num_cpus": 0, "resources": {"TPU": 4}}, 4)),
    ],
)
def test_machines_are_shared_out(asked, nodes, expected):
    assert share(asked, nodes, on_cpu=False) == expected


@pytest.mark.quick
def test_on_cpu_accelerators_are_left_alone_and_devices_are_as_many_as_asked_for():
    assert share(2, [GPUS], on_cpu=True, devices=8) == Share(2, {"num_cpus": 8}, 8, 8)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("asked", "nodes", "message"),
    [
        (5, [GPUS], "--workers=5: a worker has one of the GPUs, and there are 4"),
        (3, [TPUS, TPUS], "TPU hosts, and there are 2"),
        (None, [TPUS, TPUS | {"TPU": 8.0}], r"\[4, 8\] chips"),
        (2, [{"CPU": 0.0}], "--num-cpus"),
    ],
)
def test_what_machines_have_no_room_for_is_refused(asked, nodes, message):
    with pytest.raises(ValueError, match=message):
        share(asked, nodes, on_cpu=False)
