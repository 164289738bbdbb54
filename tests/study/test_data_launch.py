"""`fairkd-data` as a process: what it says, run twice, killed, and wrong."""

import subprocess
import sys

import pytest
from conftest import ROOT
from disturbed import zygote
from layouts import snli

from fairkd_jax import registry


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    with zygote(tmp_path_factory.mktemp("zygote")) as made:
        yield made


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    snli.write(folder)
    return folder


def prepare(launch, data_dir, *flags, name="snli", **disturbance):
    argv = [str(ROOT / "launch/data.py"), f"--set={name}", f"--data_dir={data_dir}", *flags]
    return launch.fork(argv, folder=str(data_dir), **disturbance)


def below(folder):
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_it_prepares_once_and_shows_what_there_is(launch, source, tmp_path):
    first = prepare(launch, tmp_path, f"--source={source}", "--part")
    assert first.wait() == 0, first.said
    lines = first.said.splitlines()
    folder = tmp_path / "snli" / "3.0.0"
    assert lines[0].startswith(f"{folder}: prepared in ")
    assert lines[1] == "train 42 examples, val 42 examples, test 42 examples"
    assert lines[2].split() == ["group", "shortcut", "train", "val", "test"]
    table = [line.rsplit(maxsplit=4) for line in lines[3:-1]]
    assert table[4][0] == "contradiction, negation" and table[4][1] == "right"
    assert [int(row[-1]) for row in table] == [0, 12, 0, 12, 6, 6, 36, 6]
    assert len({len(line) for line in lines[2:-1]}) == 1, "the columns are not aligned"
    sheet = (folder / "examples.txt").read_text(encoding="utf-8")
    assert lines[-1] == f"examples of each group: {folder / 'examples.txt'}"
    for text in (
        "train: neutral, no_negation (12 examples)",
        'premise: 0 A man says "hello" to Zoë.',
    ):
        assert text in sheet
    before = below(tmp_path)
    again = prepare(launch, tmp_path, f"--source={source}")
    assert again.wait() == 0, again.said
    assert again.said.splitlines() == [f"{folder}: is there", *lines[1:]]
    assert below(tmp_path) == before and again.writes == 0
    other = prepare(launch, tmp_path, "--option=attribute=overlap")
    assert other.wait() == 0 and "entailment, no_overlap" in other.said
    assert below(tmp_path) == before


def test_killed_it_starts_over_and_leaves_no_half_set(launch, source, tmp_path):
    whole = prepare(launch, tmp_path / "whole", f"--source={source}", "--part")
    assert whole.wait() == 0, whole.said
    wanted = (tmp_path / "whole" / "snli" / "3.0.0" / "groups.txt").read_text()
    for number in range(1, whole.writes + 1, max(1, whole.writes // 6)):
        place = tmp_path / str(number)
        killed = prepare(launch, place, f"--source={source}", "--part", kill=number)
        assert killed.wait() == -9
        there = (place / "snli" / "3.0.0" / "dataset_info.json").exists()
        assert not there or {"train", "validation", "test"} == {
            p.name.split(".")[0].removeprefix("snli-") for p in place.rglob("3.0.0/*.array_record*")
        }
        again = prepare(launch, place, f"--source={source}", "--part")
        assert again.wait() == 0, again.said
        assert (place / "snli" / "3.0.0" / "groups.txt").read_text() == wanted
        assert {*below(place)} == {*below(tmp_path / "whole")}


def test_mistakes_are_told_in_one_line(launch, source, tmp_path):
    for flags, said in (
        (("--set=snly",), "error: unknown sets plugin 'snly'. Did you mean 'snli'?"),
        (("--set=template_nli",), "error: unknown set that is prepared: 'template_nli'."),
        ((), f"error: {tmp_path}/none does not hold snli 3.0.0: prepare it from the files of"),
        ((f"--source={tmp_path}/gone",), f"error: {tmp_path}/gone is neither a folder nor"),
        ((f"--source={source}",), "error: split 'train' of snli, which ends with "),
        (("--option=attribut=x",), "error: unknown option of sets plugin 'snli': 'attribut'"),
    ):
        name = flags[0].removeprefix("--set=") if flags and "--set" in flags[0] else "snli"
        flags = [flag for flag in flags if "--set" not in flag]
        run = prepare(launch, tmp_path / "none", *flags, name=name)
        assert run.wait() == 1
        assert run.said.startswith(said) and len(run.said.splitlines()) == 1, run.said
    assert not (tmp_path / "none" / "snli" / "3.0.0").exists()


def test_no_other_launcher_imports_tensorflow_datasets_to_begin_with():
    names = [p.stem for p in (ROOT / "launch").glob("*.py") if p.stem != "data"]
    lines = [f"import fairkd_jax.launch.{name}" for name in names]
    lines += [f"import {registry.ROOMS['sets'][0]}.{n}" for n in registry.available("sets")]
    lines += ["import sys", "sys.exit('tensorflow_datasets' in sys.modules)"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
