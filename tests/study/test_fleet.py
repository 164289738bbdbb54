"""Workers on Ray: what each is given, and studies that end with the records of one process."""

import contextlib
import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from conftest import ROOT
from disturbed import TINY, Run, assert_ends_as, zygote
from test_launch import begin, finish

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


@pytest.mark.quick
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workers=some"], "--workers=some: expected a number from 1 up, or auto"),
        (["--workers=0"], "--workers=0: expected"),
        (["--cluster=ray://head:10001"], "names it as HOST:PORT or auto"),
        (["--workers=2", "--coordinator=h:1"], "--workers are processes by themselves"),
    ],
)
def test_what_workers_cannot_be_is_told_at_once(flags, message, tmp_path):
    _, err = finish(begin("study", f"--config={TINY}", f"--workdir={tmp_path}", *flags), status=1)
    assert message in err.splitlines()[-1] and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Starts launchers, quickly."""
    with zygote(tmp_path_factory.mktemp("zygote")) as made:
        yield made


@pytest.fixture(scope="module")
def unbroken(launch, tmp_path_factory) -> pathlib.Path:
    """The folder of a study in one process."""
    workdir = tmp_path_factory.mktemp("unbroken")
    assert launch.study(workdir).wait(HANG) == 0
    return workdir


def writers(workdir: pathlib.Path) -> dict[str, int]:
    """The process that works at a stage, by the stage's identity."""
    found = {}
    for path in workdir.glob("stages/*/claims/*.json"):
        with contextlib.suppress(OSError, ValueError):  # it ends, or is being made
            found[path.parts[-3]] = json.loads(path.read_text())["process"]
    return found


def when(run: Run, found):
    """What `found` gives once it is something, while the run lasts."""
    until = time.monotonic() + HANG
    while not (seen := found()):
        assert run.poll() is None, run.said[-3000:]
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.01)
    return seen


def with_checkpoint(workdir: pathlib.Path) -> list[tuple[str, int]]:
    """Stages that would go on from a checkpoint, and who works at each."""
    return [
        (stage, process)
        for stage, process in writers(workdir).items()
        if list((workdir / "stages" / stage).glob("checkpoints/[0-9]*/digests.json"))
    ]


@pytest.mark.slow  # half a minute
@needs_ray
def test_workers_of_whom_one_is_killed_end_with_the_records_of_one_process(
    launch, unbroken, tmp_path
):
    run = launch.study(tmp_path, "--workers=2")
    stage, process = when(run, lambda: with_checkpoint(tmp_path))[0]
    assert process != run.pid, "the process that leads does a stage itself"
    os.kill(process, signal.SIGKILL)
    assert run.wait(HANG) == 0, run.said[-3000:]
    assert f"(process {process} on " in run.said and f"died at stage {stage}" in run.said
    assert_ends_as(run, tmp_path, unbroken)
    told = json.loads((tmp_path / "studies" / "tiny" / "study.json").read_text())
    assert told["device"] == "cpu x1"
    assert os.listdir(tmp_path) == os.listdir(unbroken)


SEEDS = "--config.seeds=3"


@pytest.fixture(scope="module")
def long(launch, tmp_path_factory) -> pathlib.Path:
    """The folder of a longer study in one process."""
    workdir = tmp_path_factory.mktemp("long")
    assert launch.study(workdir, SEEDS).wait(HANG) == 0
    return workdir


@needs_ray
@pytest.mark.slow
def test_ten_kills_of_workers_and_three_of_the_driver_change_no_record(launch, long, tmp_path):
    rng = np.random.default_rng(0)
    deaths: Counter = Counter()
    for kills in (4, 3, 3, 0):
        run = launch.study(tmp_path, SEEDS, "--workers=2")
        deaths.clear()
        for _ in range(kills):
            time.sleep(rng.uniform(0.0, 2.0))
            # more deaths at a stage would end the study, as they should
            there = when(run, lambda: [w for w in writers(tmp_path).items() if deaths[w[0]] < 3])
            stage, process = there[rng.integers(len(there))]
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
                deaths[stage] += 1
        if kills:
            time.sleep(rng.uniform(0.0, 2.0))
            run.kill()
    assert run.wait(HANG) == 0, run.said[-3000:]
    assert_ends_as(run, tmp_path, long)


@contextlib.contextmanager
def two_nodes(folder: pathlib.Path):
    """A process that runs a Ray cluster of two nodes, and its address; "kill" ends the second."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    with (folder / "nodes").open("w") as said:
        nodes = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__).parent / "two_nodes.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=environment,
            text=True,
        )
    try:
        for line in nodes.stdout:
            if line.startswith("address "):
                yield line.split()[1], nodes
                break
        else:
            raise RuntimeError((folder / "nodes").read_text()[-3000:])
    finally:
        nodes.stdin.close()
        nodes.wait(HANG)
        nodes.stdout.close()


@needs_ray
@pytest.mark.slow
def test_a_node_that_is_killed_in_mid_study_changes_no_record(launch, unbroken, tmp_path):
    workdir = tmp_path / "work"
    with two_nodes(tmp_path) as (address, nodes):
        run = launch.study(workdir, "--workers=2", f"--cluster={address}")
        when(run, lambda: len(with_checkpoint(workdir)) and len(writers(workdir)) == 2)
        nodes.stdin.write("kill\n")
        nodes.stdin.flush()
        assert run.wait(HANG) == 0, run.said[-3000:]
    assert "died at stage" in run.said
    assert_ends_as(run, workdir, unbroken)


@needs_ray
@pytest.mark.slow
def test_sigterm_has_workers_save_and_stop(launch, tmp_path):
    steps = [f"--config.experiment.{who}.train.steps=20000" for who in ("teacher", "student")]
    run = launch.study(tmp_path, "--workers=2", *steps)
    [(stage, _), *_] = when(run, lambda: with_checkpoint(tmp_path))
    os.kill(run.pid, signal.SIGTERM)
    assert run.wait(HANG) == 75, run.said[-3000:]
    assert re.search(r"stopped with \d+ stages to do: the same command goes on", run.last)
    assert list((tmp_path / "stages" / stage).glob("checkpoints/[0-9]*"))
    assert not (tmp_path / "stages" / stage / "done").exists() and not writers(tmp_path)


@needs_ray
@pytest.mark.slow
def test_a_smoke_run_with_eight_devices_for_each_worker(launch, tmp_path):
    flags = "--workers=2", "--smoke", "--fake_devices=8", "--fsdp=2"
    run = launch.study(tmp_path, *flags)
    assert run.wait(HANG) == 0, run.said[-3000:]
    told = json.loads((tmp_path / "studies" / "tiny-smoke" / "study.json").read_text())
    assert told["device"] == "cpu x8" and "report: " in run.said


PLUGIN = '''"""A method of a project that is not installed."""

import os
import signal

from flax import struct

from fairkd_jax.debias.base import Debiaser


@struct.dataclass
class Mine(Debiaser):
    """ERM; asked to, it ends the process that trains by it."""

    deadly: bool = struct.field(pytree_node=False, default=False)

    def check_tables(self, tables):
        """Called where training begins."""
        if self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
'''

CONFIG = '''"""The tiny study with a method of its own."""

import dataclasses

import tiny_study
from fairkd_jax.config import Study, as_config_dict, parse

MINE = {"name": "mine.method"}
METHODS = MINE, {"label": "deadly", "debias": MINE | {"deadly": True}}


def get_config(methods: str):
    """As many methods as it says."""
    study = parse(Study, tiny_study.get_config())
    experiment = dataclasses.replace(study.experiment, debias=METHODS[0])
    axes = {"debias": METHODS[: int(methods)]}
    return as_config_dict(dataclasses.replace(study, experiment=experiment, axes=axes))
'''


@pytest.fixture
def project(tmp_path) -> pathlib.Path:
    """A folder with a plugin, and a config that names it, from where launchers are run."""
    folder = tmp_path / "project"
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "__init__.py").touch()
    (folder / "mine" / "method.py").write_text(PLUGIN)
    (folder / "of_mine.py").write_text(CONFIG)
    (folder / "tiny_study.py").write_text(TINY.read_text())
    (folder / "optax.py").write_text("raise ImportError('not what is installed')\n")
    return folder


def own_study(launch, project: pathlib.Path, methods: int) -> tuple[Run, pathlib.Path]:
    workdir = project.parent / "work"
    flags = f"--config=of_mine.py:{methods}", "--workers=2"
    return launch.start("study", workdir, *flags, cwd=str(project)), workdir


@needs_ray
@pytest.mark.slow
def test_a_stage_at_which_every_worker_dies_is_named_when_all_others_are_done(launch, project):
    run, workdir = own_study(launch, project, 2)
    assert run.wait(HANG) == 1, run.said[-3000:]
    lost = re.search(
        r"error: stage (\w+) \(train\): 4 workers died at it, the last worker \d \(process \d+ on "
        r"\S+, log (\S+)\)\. (\d+) stages need what is missing, all others are done",
        run.last,
    )
    assert lost, run.said[-3000:]
    assert pathlib.Path(lost[2]).exists()
    assert not (workdir / "stages" / lost[1] / "done").exists()
    there = json.loads((workdir / "studies" / "tiny" / "study.json").read_text())["asked"]
    assert len(list(workdir.glob("stages/*/done"))) == len(there) - int(lost[3]) - 1 > 3


@needs_ray
@pytest.mark.slow
def test_a_file_that_changes_in_mid_study_ends_it(launch, project):
    run, workdir = own_study(launch, project, 1)
    when(run, lambda: with_checkpoint(workdir))
    path = project / "mine" / "method.py"
    path.write_text(PLUGIN.replace("asked to", "told to"))
    assert run.wait(HANG) == 1, run.said[-3000:]
    assert f"{path} changed while the study runs" in run.said, run.said[-3000:]
