"""A project of somebody else runs a study of plugins of its own, and tests their contracts."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
from conftest import ROOT

PROJECT = pathlib.Path(__file__).parent / "project"
PLUGINS = {
    "debias": "my_project.methods.mine",
    "bias": "my_project.methods.narrow",
    "distill": "my_project.methods.closer",
    "sets": "my_project.data.spots",
    "views": "my_project.data.grey",
    "augment": "my_project.data.mirrored",
    "models": "my_project.nets.mlp",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> pathlib.Path:
    """The project, in a folder of its own; W is its work folder."""
    folder = tmp_path_factory.mktemp("somewhere") / "project"
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def begin(project: pathlib.Path, *arguments: str) -> subprocess.Popen:
    """Python, started in the project: nothing says where it lies but the current folder."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(project.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *arguments], cwd=project, env=environment, **pipes)


def study(project: pathlib.Path, *flags: str) -> subprocess.Popen:
    launcher = str(ROOT / "launch" / "study.py")
    return begin(project, launcher, "--config=tiny_outside.py", "--workdir=W", *flags)


def said(process: subprocess.Popen, status: int = 0) -> str:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == status, out[-3000:]
    return out


def done(project: pathlib.Path) -> dict[str, int]:
    """When each finished stage was closed."""
    return {p.parent.name: p.stat().st_mtime_ns for p in project.glob("W/stages/*/done")}


def test_a_study_of_plugins_from_outside_is_killed_goes_on_and_knows_what_changed(project):
    process = study(project)
    until = time.monotonic() + 120
    while not done(project) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    before = done(project)
    assert before, "it was not killed in the middle"
    assert "report: " in said(study(project))
    whole = done(project)
    assert whole.items() >= before.items() and len(whole) == 7

    moved = project.rename(project.with_name("moved"))
    plan = study(moved, "--dry_run")
    assert "7 stages: 7 done" in said(plan)

    method = moved / "my_project" / "methods" / "closer.py"
    method.write_text(method.read_text().replace("0.5 *", "0.25 *"))
    said(study(moved))  # the distilled net, its score and its comparison, and no other
    after = done(moved)
    assert len(after) == 10 and after.items() >= whole.items()

    shared = moved / "my_project" / "losses.py"  # that the debiasing method imports
    shared.write_text(shared.read_text().replace("SHARE = 0.5", "SHARE = 0.25"))
    assert "7 stages: 0 done" in said(study(moved, "--dry_run"))
    moved.rename(project)


def test_a_fault_ends_a_launch_before_anything_is_written(project):
    bad = project / "my_project" / "methods" / "bad.py"
    bad.write_text("from nowhere import nothing\n")
    flags = "--config.experiment.debias.name=my_project.methods.bad", "--workdir=V"
    out = said(study(project, *flags), status=1)
    assert f"debias plugin 'my_project.methods.bad' cannot be imported: {bad}, line 1" in out
    assert not list(project.glob("V/stages/*"))


def test_authors_run_the_tests_of_the_contracts(project):
    careless = project / "my_project" / "methods" / "careless.py"
    text = (project / "my_project" / "methods" / "mine.py").read_text()
    careless.write_text(text.replace('batch["real"]', 'batch["real"] * 0 + 1'))
    command = "-m", "fairkd_jax.testing", *(f"{k}={v}" for k, v in PLUGINS.items())
    few = "padding or splits or encoded or extra_examples or neither_method"
    out = said(begin(project, *command, "debias=my_project.methods.careless", "-k", few), status=1)
    assert "debias.py::test_padding_rows_change_nothing[my_project.methods.careless]" in out
    assert "1 failed" in out and "9 passed" in out, out
    assert "Did you mean 'mine'" in said(
        begin(project, *command, "debias=my_project.methods.min"), 2
    )


@pytest.mark.quick
def test_pytest_is_for_tests_alone():
    code = (
        "import sys, fairkd_jax.testing, fairkd_jax.study.execute; print('pytest' in sys.modules)"
    )
    assert said(begin(ROOT, "-c", code)).strip() == "False"
