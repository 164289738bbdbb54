"""Launchers as processes: killed and started again, on two hosts, and wrong in every way."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pandas
import pytest
from conftest import ROOT
from ports import free_port

from fairkd_jax import registry
from fairkd_jax.launch import rollcall, runtime

TINY = pathlib.Path(__file__).parent / "tiny_study.py"
ENVIRONMENT = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"}


SLURM = {
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_NODELIST": "node[003-005,9]",
}


def command(launcher: str, *flags: str) -> list[str]:
    return [sys.executable, str(ROOT / "launch" / f"{launcher}.py"), *flags]


def begin(*arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT | environment,
        text=True,
    )


def finish(process: subprocess.Popen, status: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, f"status {process.returncode}\n{out}\n{err[-3000:]}"
    return out, err


def study(workdir: pathlib.Path | str, *flags: str, **environment: str) -> subprocess.Popen:
    return begin("study", f"--config={TINY}", f"--workdir={workdir}", *flags, **environment)


def records(workdir: pathlib.Path) -> pandas.DataFrame:
    return pandas.read_csv(workdir / "studies" / "tiny" / "report" / "records.csv")


def times(workdir: pathlib.Path) -> dict[str, int]:
    """When each finished stage was closed."""
    return {p.parent.name: p.stat().st_mtime_ns for p in workdir.glob("stages/*/done")}


def when(process: subprocess.Popen, condition) -> None:
    """Waits for it while the process runs."""
    for _ in range(3000):
        if condition():
            return
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.05)
    raise TimeoutError("nothing happened")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> pathlib.Path:
    """The folder of a study that nothing disturbed.

    A number that a step takes from the host by the way would end it: that waits for the device.
    """
    workdir = tmp_path_factory.mktemp("unbroken")
    out, _ = finish(study(workdir, JAX_TRANSFER_GUARD="disallow"))
    assert "report: " in out and (workdir / "studies" / "tiny" / "report" / "index.html").exists()
    return workdir


def test_killed_and_started_again_a_study_ends_with_the_same_numbers(unbroken, tmp_path):
    # A third of the stages are done and another has written its second checkpoint.
    process = study(tmp_path)
    middle = len(times(unbroken)) // 3
    when(
        process,
        lambda: len(times(tmp_path)) >= middle and any(tmp_path.glob("stages/*/checkpoints/10")),
    )
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = times(tmp_path)
    assert 0 < len(before) < len(times(unbroken))
    finish(study(tmp_path))
    after = times(tmp_path)
    assert {k: after[k] for k in before} == before, "a finished stage was done again"
    pandas.testing.assert_frame_equal(records(tmp_path), records(unbroken), check_exact=True)


def test_started_again_a_finished_study_trains_nothing(unbroken):
    before = times(unbroken)
    out, _ = finish(study(unbroken))
    assert times(unbroken) == before and "report: " in out


def test_sigterm_saves_and_ends_with_a_status_of_its_own(tmp_path):
    process = study(tmp_path)
    when(process, lambda: any(tmp_path.glob("stages/*/checkpoints/5")))
    process.send_signal(signal.SIGTERM)
    _, err = finish(process, status=75)
    assert "the same command goes on" in err


def two_by_slurm(workdir: pathlib.Path) -> list[subprocess.Popen]:
    """As Slurm starts them: JAX finds the hosts in the environment."""
    port = str(free_port())  # it follows from the number of the job
    job = SLURM | {"SLURM_NTASKS": "2", "SLURM_JOB_ID": port, "SLURM_STEP_NODELIST": "localhost"}
    return [study(workdir, **(job | {"SLURM_PROCID": str(i)})) for i in range(2)]


def two(workdir: pathlib.Path) -> list[subprocess.Popen]:
    flags = [f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
    return [study(workdir, *flags, f"--process_id={i}") for i in range(2)]


def assert_close(a: pandas.DataFrame, b: pandas.DataFrame) -> None:
    """Two hosts add in another order: a rounding apart, and stages carry the same names."""
    values = ["value"]
    pandas.testing.assert_frame_equal(a.drop(columns=values), b.drop(columns=values))
    pandas.testing.assert_frame_equal(a[values], b[values], rtol=1e-2, atol=1e-2)


def test_two_processes_give_the_records_of_one_and_one_goes_on_for_two(unbroken, tmp_path):
    for process in two_by_slurm(tmp_path / "both"):
        finish(process)
    assert_close(records(tmp_path / "both"), records(unbroken))

    halves = two(tmp_path / "half")
    when(halves[0], lambda: any((tmp_path / "half").glob("stages/*/checkpoints/10")))
    for process in halves:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(study(tmp_path / "half"))
    assert_close(records(tmp_path / "half"), records(unbroken))


def test_a_host_that_does_not_report_is_named(tmp_path):
    flags = [f"--coordinator=localhost:{free_port()}", "--num_processes=2", "--process_id=0"]
    process = study(tmp_path, *flags, "--wait_seconds=5")
    _, err = process.communicate(timeout=60)
    assert process.returncode and "process 1" in err, err[-3000:]


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--config.experiment.debias={'name': 'jtf'}", "jtt"),
        ("--config.experiment.debias.name=jtf", "'jtf'. Did you mean 'jtt'?"),
        ("--config.experiment.debias.identify_sahre=3", "identify_share"),
        ("--config.experiment.stdent.train.steps=3", "student"),
        ("--config.experiment.student.train.steps=-1", "steps"),
        ("--config.experiment.data.set.name=celebs", "colored_digits"),
        ("--config=nowhere.py", "nowhere.py"),
    ],
)
def test_what_is_wrong_ends_at_once_with_the_choices(tmp_path, flag, message):
    start = time.perf_counter()
    process = study(tmp_path, flag)
    out, err = process.communicate(timeout=120)
    assert process.returncode and message in out + err, (out + err)[-3000:]
    assert not list(tmp_path.glob("stages/*"))
    assert time.perf_counter() - start < 60  # 10 s on an idle machine


def test_a_work_folder_that_orbax_cannot_write_is_refused_at_once():
    out, err = study("s3://bucket/w").communicate(timeout=60)
    assert "Orbax, which writes the nets, knows folders and gs:// alone" in out + err


def test_a_smoke_run_on_eight_fake_devices_reaches_its_report(tmp_path):
    flags = "--smoke", "--fake_devices=8", "--fsdp=2"
    out, err = finish(study(tmp_path, *flags))
    assert "report: " in out and "8 x cpu" in err


def test_dry_run_counts_what_is_done(unbroken):
    out, _ = finish(study(unbroken, "--dry_run"))
    assert f"{len(times(unbroken))} done, 0 partial, 0 missing" in out


def test_compare_and_report_and_train_work_on_the_folder(unbroken, tmp_path):
    runs = json.loads((unbroken / "studies" / "tiny" / "study.json").read_text())["runs"]
    first, second = (r["stage"] for r in runs if r["role"] in ("teacher", "distilled"))
    flags = [f"--workdir={unbroken}", f"--first={first}", f"--second={second}"]
    flags += ["--first_taps=stem", "--examples=32", "--measure=angular", f"--output={tmp_path}"]
    out, _ = finish(begin("compare", *flags))
    assert "stage1/block1/out" in out and "conflicting" in out
    assert "<h2>Angular: " in (tmp_path / "compare.html").read_text()
    with np.load(tmp_path / "compare.npz", allow_pickle=False) as found:
        assert found["aligned"].shape == found["measures/angular/aligned/null"].shape
    assert "report: " in finish(begin("report", f"--workdir={unbroken}"))[0]


MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.0.0.2:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}


@pytest.mark.quick
@pytest.mark.parametrize(
    ("environment", "count", "index", "host"),
    [(SLURM, 4, 3, "node003"), (MPI, 2, 1, "10.0.0.2"), ({}, 1, 0, None)],
)
def test_hosts_are_found_as_jax_finds_them(environment, count, index, host, monkeypatch):
    for name in [n for n in os.environ if n.startswith(("SLURM_", "OMPI_", "TPU_"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    hosts = rollcall.find(1.0)
    if host is None:
        assert hosts is None
        return
    assert (hosts.count, hosts.index) == (count, index)
    assert hosts.coordinator.rsplit(":", 1)[0] == host


@pytest.mark.quick
@pytest.mark.parametrize(
    ("launcher", "flags", "message"),
    [
        ("study", ["--config=quickstrat"], "'quickstrat'. Did you mean 'quickstart'? Choices: aug"),
        ("study", ["--config=iterative:x"], "config 'iterative:x': too many positional arg"),
        ("study", ["--config=quickstart"], "--workdir=FOLDER is needed"),
        ("study", ["--config=colored_digits", "--workdir=W"], "Experiment: fairkd-train runs it"),
        ("train", ["--config=quickstart", "--workdir=W"], "of Study: fairkd-study runs it"),
        ("train", ["--config=broken.py"], "broken.py, line 3: TypeError: "),
        ("train", ["--workdir=W"], "--config is needed: colored_digits, "),
        ("study", ["quickstart"], "unexpected 'quickstart'"),
        ("report", ["--workdir=s4://b/w"], "scheme of s4://b/w: 's4'. Choices: gs, s3"),
        ("report", ["--workdir=W", "--debug"], "Traceback"),
        ("benchmark", ["--family=resnet", "--option=stme=x"], "'stme'. Did you mean 'stem'"),
    ],
)
def test_a_mistake_ends_in_one_message(tmp_path, launcher, flags, message):
    (tmp_path / "broken.py").write_text('"""No config."""\ndef get_config():\n    return len(3)\n')
    done = subprocess.run(
        command(launcher, *flags),
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and not done.stdout
    assert message in done.stderr, done.stderr[-3000:]
    assert ("Traceback" in done.stderr) == ("--debug" in flags), done.stderr[-3000:]
    assert [p.name for p in tmp_path.iterdir()] == ["broken.py"]


def check(value: int) -> None:
    """As a check of a plugin says that something is wrong."""
    raise ValueError(f"{value} is wrong")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("fail", "mistake"),
    [
        (lambda: check(3), True),
        (lambda: pathlib.Path("nowhere").read_text(), True),
        (lambda: registry.build("debias", {"name": "nothing"}), True),
        (lambda: int("three"), False),
        (lambda: jnp.zeros(3).reshape(2, 2), False),
        (lambda: json.loads("{"), False),
        (lambda: {}["key"], False),
    ],
)
def test_a_mistake_is_what_a_check_raised_and_not_a_library(fail, mistake):
    with pytest.raises(Exception) as caught:
        fail()
    assert runtime._is_mistake(caught.value) == mistake
