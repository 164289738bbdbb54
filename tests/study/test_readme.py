"""Every command and every block of Python in README.md runs, made small where it would take long.

A command that is in none of the tables below runs as it is printed.
"""

import json
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest
from conftest import ROOT
from disturbed import Run, Zygote, zygote
from layouts import mnli

README = (ROOT / "README.md").read_text()
SKIPPED = {  # the beginning of a command: why it is not run
    "python3 -m venv": "installs packages, from a network; test_wheel.py installs the wheel",
    "python -m fairkd_jax.testing": "needs a plugin of the user's; tests/outside has one",
}
TINY = "--student=tiny --teacher=tiny --batch=2 --seq=8 --steps=1 --warmup=0"
ADDED = {  # what a command contains: flags that make it small; the last of two equal ones holds
    "launch/tpu_pod.sh": "--dry_run",  # needs a pod
    "--config.seeds=10": "--dry_run",
    "study.py --config=configs/studies/quickstart.py --workdir=W --smoke": "--config.axes={}",
    "fairkd-study --config=quickstart": "--dry_run",
    "launch/train.py": "--smoke",
    "launch/compare.py": "--workdir=runs/temperature --examples=16",
    "launch/export.py": "--workdir=runs/temperature",
    "launch/report.py": "--workdir=runs/temperature",
    "--study=methods_images": "--study=temperature-smoke",
    "--tuned=": "--config=configs/studies/methods_images.py:erm --dry_run",
    "launch/data.py": "--part",  # of an archive of a few pairs
    "--verify": "--workdir=runs/temperature",
    "--data=pairs": "--rows=1000 --seq=16",
    "--mode=kd_table": TINY,
    "--mode=erm": TINY,
    "--debias=lff": "--image=8 --batch=2 --steps=2 --warmup=1",
    "--compile_only": f"{TINY} --fake_devices=4 --fsdp=2 --batch=4",
    "--table": f"{TINY} --family=resnet --image=8",
}
SAID = {  # what a command contains: what it then says
    "study.py --config=configs/studies/quickstart.py --workdir=W --dry_run": "0 done",
    "fairkd-study --config=quickstart": "missing",
    "--config.seeds=10": "missing",
    "launch/tpu_pod.sh": "gcloud compute tpus tpu-vm ssh SLICE",
    "--workdir=W --smoke": "report: ",
    "launch/train.py": "in_domain/test/acc_avg",
    "launch/compare.py": "conflicting, ",
    "launch/export.py": "F: config.json, model.safetensors, tokenizer.json",
    "launch/report.py": r"\| attributes \| teacher, ",
    "launch/tune.py": "missing",
    "launch/data.py": "train 42 examples, matched 42 examples",
    "--verify": " 0 damaged",
    "launch/benchmark.py": "resnet|examples_per_s|ratio|bytes|second_start_s",
}
SMALLER = """
import dataclasses
from fairkd_jax.study import plan
few = dataclasses.replace(pairs, set={"name": "template_nli", "train": 100, "eval": 30})
experiment = dataclasses.replace(study.experiment, data=few, teacher=study.experiment.student)
study = dataclasses.replace(study, experiment=experiment, axes={})
study = plan.smoke(study)
"""
NETS = """
words = {"vocab_size": 30, "length": 9, "label_tokens": ((3, 1), (4, 5, 1), (4, 6, 1))}
facts = {"wordpiece": words, "unigram": words, "image": {"height": 32, "width": 32, "channels": 3}}
for model in models:
    if "pretrained" not in model:  # the others read files of the user's
        fk.make_net(model, 3, facts)
"""


def commands() -> list[str]:
    """Lines that are indented by four, and spans that begin as commands do; comments left off."""
    text = re.sub(r"^```.*?^```", "", README, flags=re.M | re.S)
    lines = re.findall(r"^    (?=\S)(.*)", text, re.M)
    spans = re.findall(r"`((?:python3?|bash|fairkd-\w+)\s[^`]*)`", text)
    return [" ".join(shlex.split(line, comments=True)) for line in [*lines, *spans]]


def found(table: dict[str, str], command: str) -> list[str]:
    return [value for part, value in table.items() if part in command]


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    with zygote(tmp_path_factory.mktemp("zygote")) as made:
        yield made


@pytest.fixture(scope="module")
def blocks(launch: Zygote, tmp_path_factory) -> Run:
    """The blocks of Python, one after another in one namespace, in a folder as a checkout is."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("launch", "configs"):
        (folder / name).symlink_to(ROOT / name)
    mnli.write(folder / "archive")
    shutil.make_archive(str(folder / "multinli_1.0"), "zip", folder / "archive")
    text = ""
    for block in re.findall(r"^```python\n(.*?)^```", README, re.M | re.S):
        text += SMALLER * ("fk.run(" in block) + block
    (folder / "blocks.py").write_text(text + NETS)
    run = launch.fork(["blocks.py"], cwd=str(folder), folder=str(folder))
    run.wait(300)
    run.cwd = folder
    return run


def test_blocks_run_as_printed_one_after_another(blocks):
    assert blocks.status == 0, blocks.said[-3000:]
    assert "0 done" in blocks.said
    assert blocks.last.endswith("temperature-smoke/report/index.html")


def test_every_declared_change_is_of_a_command_that_is_there():
    there = commands()
    assert len(there) > 12
    for part in [*SKIPPED, *ADDED, *SAID]:
        assert [c for c in there if part in c], part


@pytest.mark.parametrize("command", commands())
def test_a_command_runs(command, launch, blocks):
    if why := [v for k, v in SKIPPED.items() if command.startswith(k)]:
        pytest.skip(why[0])
    folder: pathlib.Path = blocks.cwd
    about = json.loads(
        (folder / "runs/temperature/studies/temperature-smoke/study.json").read_text()
    )
    small = command.replace("STAGE", about["runs"][0]["stage"][:6])
    added = " ".join(found(ADDED, command))
    if "launch/tpu_pod.sh" in command:
        head, _, tail = small.partition(" -- ")
        words = [*shlex.split(head), added, "--", tail]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60)
        status, said = done.returncode, done.stdout + done.stderr
    else:
        python, *words = shlex.split(f"{small} {added}")
        if python.startswith("fairkd-"):
            words.insert(0, f"launch/{python.removeprefix('fairkd-')}.py")
        run = launch.fork(words, cwd=str(folder), folder=str(folder))
        status, said = run.wait(300), run.said
    assert status == 0, said[-3000:]
    for expected in found(SAID, command):
        assert re.search(expected, said), said[-3000:]


def test_every_config_that_is_named_is_there():
    named = re.findall(r"configs/[\w/]+\.py", README)
    assert named and not [name for name in named if not (ROOT / name).is_file()]
