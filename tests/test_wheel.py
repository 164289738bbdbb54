"""The wheel, installed into an empty folder and run from another: nothing is read of a checkout."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None, reason="needs hatchling"
)
SCRIPTS = ("study", "train", "report", "compare", "export", "benchmark", "data", "tune")


def python(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, **options
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> pathlib.Path:
    """The folder that holds the installed wheel and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    site, pip = folder / "site", ("-m", "pip", "--disable-pip-version-check", "-q")
    for arguments in (
        (*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)),
        (*pip, "install", "--no-deps", "--no-index", "--find-links", str(folder),
         "--target", str(site), "fairkd_jax"),
    ):  # fmt: skip
        done = python(*arguments)
        assert done.returncode == 0, done.stderr[-3000:]
    return site


@pytest.fixture
def run(site, tmp_path):
    """Runs a console script in a folder of its own; `status` is what it must end with."""
    environment = os.environ | {
        "PYTHONPATH": str(site),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }

    def run(script: str, *flags: str, status: int = 0) -> str:
        command = (str(site / "bin" / script), *flags) if script else flags
        done = python(*command, cwd=tmp_path, env=environment)
        assert done.returncode == status, done.stderr[-3000:]
        return done.stdout + done.stderr

    return run


def test_it_holds_all_and_its_scripts_tell_what_they_do(site, run):
    ours = {p.name for p in site.iterdir()}
    assert ours == {"bin", "fairkd_jax", *(p.name for p in site.glob("fairkd_jax-*.dist-info"))}
    for folder, inside in (("fairkd_jax", ""), ("configs", "configs")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                there = site / "fairkd_jax" / inside / path.relative_to(ROOT / folder)
                assert there.read_bytes() == path.read_bytes()
    assert {p.name for p in (site / "bin").iterdir()} == {f"fairkd-{name}" for name in SCRIPTS}
    code = "import fairkd_jax as fk; print(fk.__file__, fk.figures.__name__)"
    assert str(site / "fairkd_jax") in run("", "-c", code)
    assert "fairkd-report --workdir=runs/quickstart" in run("fairkd-report", "--help", status=1)
    said = run("fairkd-study", "--config=quickstrat", status=1)
    assert "Did you mean 'quickstart'? Choices: augmentation_images, " in said
    flags = "--config=quickstart", "--workdir=W", "--config.seeds=1", "--dry_run"
    assert "9 runs, 21 stages: 0 done" in run("fairkd-study", *flags)


@pytest.mark.slow
def test_a_study_its_report_and_the_net_that_cannot_be_exported(run, tmp_path):
    said = run("fairkd-study", "--config=quickstart", "--workdir=W", "--smoke")
    [report] = re.findall("report: (.*)", said)
    assert "</html>" in pathlib.Path(report).read_text()
    study = json.loads((tmp_path / "W/studies/quickstart-smoke/study.json").read_text())
    assert re.match(r"\S*fairkd-study --config=quickstart", study["command"])
    assert f"report: {report}" in run("fairkd-report", "--workdir=W")
    flags = f"--stage={study['runs'][0]['stage'][:6]}", "--folder=F"
    assert "can be exported" in run("fairkd-export", "--workdir=W", *flags, status=1)


@pytest.mark.slow
def test_an_export_and_every_other_script(run, tmp_path):
    run("fairkd-study", "--config=quickstart_nli", "--workdir=W", "--smoke")
    study = json.loads((tmp_path / "W/studies/quickstart_nli-smoke/study.json").read_text())
    first, second = (run["stage"][:6] for run in study["runs"][:2])
    run("fairkd-export", "--workdir=W", f"--stage={first}", "--folder=F")
    read = "from transformers import AutoConfig; print(AutoConfig.from_pretrained('F').id2label)"
    assert "entailment" in run("", "-c", read)
    said = run("fairkd-compare", "--workdir=W", f"--first={first}", f"--second={second}")
    assert "aligned, " in said
    said = run("fairkd-train", "--config=colored_digits", "--workdir=V", "--smoke")
    assert "in_domain/test/acc_avg" in said
    flags = "--family=resnet", "--student=tiny", "--teacher=tiny", "--image=8", "--steps=1"
    assert json.loads(run("fairkd-benchmark", *flags).splitlines()[0])
