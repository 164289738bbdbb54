"""A study killed anywhere, launched twice, or damaged ends with the numbers of an undisturbed one.

A few times each by default; as often as one likes with `-m slow`.
"""

import errno
import os
import pathlib
import shutil
import signal
import time

import numpy as np
import pandas
import pytest
from conftest import prepared
from disturbed import HANG, Zygote, assert_ends_as, records, zygote
from ports import free_port


def times(few: int, many: int):
    """Parametrises a test: a few times by default, many times as a slow one."""
    values = [few, pytest.param(many, marks=pytest.mark.slow)]
    return pytest.mark.parametrize("times", values)


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Starts launchers, quickly."""
    with zygote(tmp_path_factory.mktemp("zygote")) as made:
        yield made


@pytest.fixture(scope="module")
def unbroken(launch: Zygote, tmp_path_factory) -> pathlib.Path:
    """The folder of a study that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("unbroken")
    assert launch.study(workdir).wait(300) == 0
    return workdir


@pytest.fixture(scope="module")
def whole(launch: Zygote, unbroken, tmp_path_factory) -> tuple[float, int]:
    """How long a study takes, and how often it writes."""
    start = time.monotonic()
    run = launch.study(tmp_path_factory.mktemp("timed"))
    assert run.wait(300) == 0
    return time.monotonic() - start, run.writes


@pytest.fixture(scope="module")
def half(launch: Zygote, unbroken, tmp_path_factory) -> pathlib.Path:
    """The folder of a study that was killed on its way, with a checkpoint."""
    workdir = tmp_path_factory.mktemp("half")
    run = launch.study(workdir)
    while not (
        list(workdir.glob("stages/*/checkpoints/20")) and list(workdir.glob("stages/*/done"))
    ):
        assert run.poll() is None, run.said
        time.sleep(0.001)
    run.kill()
    return workdir


@times(3, 100)
def test_killed_at_any_moment(launch, unbroken, whole, tmp_path, times):
    rng = np.random.default_rng(times)
    for i in range(times):
        workdir = tmp_path / str(i)
        run = launch.study(workdir)
        time.sleep(rng.uniform(0, whole[0]))
        run.kill()
        assert_ends_as(launch.study(workdir), workdir, unbroken)
        shutil.rmtree(workdir)


@times(4, 100)
def test_killed_just_before_a_write(launch, unbroken, whole, tmp_path, times):
    rng = np.random.default_rng(times)
    for i in range(times):
        workdir = tmp_path / str(i)
        number = int(rng.integers(1, whole[1] + 1))
        killed = launch.study(workdir, kill=number)
        assert killed.wait() == -9, f"write {number} of {whole[1]} did not come: {killed.said}"
        assert_ends_as(launch.study(workdir), workdir, unbroken)
        shutil.rmtree(workdir)


@times(2, 100)
def test_a_disk_that_is_full_from_a_write_on_is_named_at_once(
    launch, unbroken, whole, tmp_path, times
):
    rng = np.random.default_rng(times)
    for i in range(times):
        workdir = tmp_path / str(i)
        number = int(rng.integers(1, whole[1] * 0.9))  # their number differs a little
        full = launch.study(workdir, fail=[errno.ENOSPC, number, ""])
        assert full.wait() == 74, f"write {number} of {whole[1]}: {full.said[-3000:]}"
        assert full.last.startswith(f"No space is left on the disk of {workdir}: free some")
        assert_ends_as(launch.study(workdir), workdir, unbroken)
        shutil.rmtree(workdir)


ARRAYS = {"largest": 2**15}  # less than those of the net, more than anything written before
RENAME = {"fail": [errno.EIO, 1, "os.rename .*/checkpoints/.*orbax-checkpoint-tmp$"]}
SAVES = pytest.mark.parametrize(
    ("disturbance", "reason"),
    [(ARRAYS, os.strerror(errno.EFBIG)), (RENAME, os.strerror(errno.EIO))],
    ids=["arrays", "rename"],
)


@SAVES
def test_a_save_that_fails_ends_the_run_at_once(launch, unbroken, tmp_path, disturbance, reason):
    failed = launch.study(tmp_path, **disturbance)
    assert failed.wait() == 1
    assert reason in failed.last and "checkpoints" in failed.said, failed.said[-3000:]
    assert not list(tmp_path.glob("stages/*/checkpoints/[0-9]"))
    assert_ends_as(launch.study(tmp_path), tmp_path, unbroken)


@pytest.mark.slow
@SAVES
def test_a_save_that_fails_in_one_of_two_processes_ends_both(
    launch, unbroken, tmp_path, disturbance, reason
):
    first, second = launch.two(tmp_path, tmp_path, **disturbance)
    assert first.wait(4 * HANG) == 1 and reason in first.last, first.said[-3000:]
    assert second.wait(20) != 0
    assert_ends_as(launch.study(tmp_path), tmp_path, unbroken)


def test_two_processes_with_two_folders_both_say_so(launch, tmp_path):
    for run in launch.two(tmp_path / "a", tmp_path / "b"):
        assert run.wait() == 1
        assert run.last.startswith("error: process 1"), run.said[-3000:]
        assert str(tmp_path / "a") in run.last and str(tmp_path / "b") in run.last
    assert not list(tmp_path.glob("*/stages"))


@pytest.mark.parametrize("name", ["mnli", pytest.param("mnist", marks=pytest.mark.slow)])
def test_two_processes_read_a_prepared_set_as_one_does(launch, tmp_path, name):
    config = (
        f"--config={pathlib.Path(__file__).parent / 'prepared_study.py'}:{name},{prepared(name)}"
    )
    hosts = f"--coordinator=localhost:{free_port()}", "--num_processes=2"
    runs = [launch.start("study", tmp_path / "one", config)]
    runs += [
        launch.start("study", tmp_path / "two", config, *hosts, f"--process_id={i}")
        for i in range(2)
    ]
    for run in runs:
        assert run.wait(HANG) == 0, run.said
    one, two = (records(tmp_path / folder, "prepared") for folder in ("one", "two"))
    pandas.testing.assert_frame_equal(one.drop(columns="value"), two.drop(columns="value"))
    np.testing.assert_allclose(one.value, two.value, rtol=1e-3, atol=1e-4)  # sums of two halves


@times(3, 30)
def test_launched_twice(launch, unbroken, whole, tmp_path, times):
    rng = np.random.default_rng(times)
    for i in range(times):
        workdir = tmp_path / str(i)
        first = launch.study(workdir)
        time.sleep(rng.uniform(0, whole[0] / 2) * (i % 3 > 0))  # every third pair at once
        second = launch.study(workdir)
        assert first.wait() == second.wait() == 0, first.said + second.said
        assert_ends_as(second, workdir, unbroken)
        shutil.rmtree(workdir)


def test_the_second_launch_says_for_whom_it_waits_and_may_be_stopped(launch, unbroken, tmp_path):
    first = launch.study(tmp_path)
    while not list(tmp_path.glob("stages/*/claims/*.json")):
        time.sleep(0.01)
    second = launch.study(tmp_path)
    while "waiting for it" not in second.said and first.poll() is None:
        time.sleep(0.01)
    assert f"is being written by process {first.pid} on " in second.said
    os.kill(second.pid, signal.SIGTERM)
    os.kill(first.pid, signal.SIGSTOP)
    assert second.wait() == 75, second.said
    os.kill(first.pid, signal.SIGCONT)
    assert_ends_as(first, tmp_path, unbroken)


def damage(path: pathlib.Path, how: int, rng: np.random.Generator) -> None:
    """Flips a byte, cuts the file, or empties it."""
    content = bytearray(path.read_bytes())
    if how == 0 and content:
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content if how == 0 else content[: len(content) // 2] if how == 1 else b"")


@times(3, 60)
def test_damaged_files_are_named_and_what_they_hold_is_done_again(
    launch, unbroken, half, tmp_path, times
):
    rng = np.random.default_rng(times)
    for i in range(times):
        workdir = tmp_path / str(i)
        shutil.copytree(half if i % 2 else unbroken, workdir)
        kinds: dict[tuple, list[pathlib.Path]] = {}
        for path in sorted(p for p in workdir.rglob("*") if p.is_file()):
            part = path.relative_to(workdir).parts
            kinds.setdefault((part[0], *part[2:4]), []).append(path)
        chosen = list(kinds.values())[int(rng.integers(len(kinds)))]
        path = chosen[int(rng.integers(len(chosen)))]
        damage(path, i // 2 % 3, rng)
        run = launch.study(workdir)
        if run.wait() != 0:
            assert str(path.parent) in run.said, f"{path}: {run.said[-3000:]}"
            run = launch.study(workdir)
        assert run.wait() == 0, f"{path}: {run.said[-3000:]}"
        assert records(workdir).equals(records(unbroken)), path
        shutil.rmtree(workdir)


@pytest.mark.parametrize("product", ["net", "table", "result.json", "done"])
def test_one_flipped_byte_is_named_and_that_stage_alone_is_done_again(
    launch, unbroken, tmp_path, product
):
    workdir = tmp_path / "copy"
    shutil.copytree(unbroken, workdir)
    paths = [p for p in sorted(workdir.glob(f"stages/*/{product}"))]
    paths = [f for p in paths for f in ([p] if p.is_file() else p.rglob("*")) if f.is_file()]
    path = max(paths, key=lambda p: p.stat().st_size)
    before = {p.parent: p.stat().st_mtime_ns for p in workdir.glob("stages/*/done")}
    damage(path, 0, np.random.default_rng(0))
    run = launch.study(workdir)
    assert run.wait(HANG) == 0
    assert path.name in run.said and "is done again" in run.said
    after = {p.parent: p.stat().st_mtime_ns for p in workdir.glob("stages/*/done")}
    again = [p for p in before if before[p] != after[p]]
    assert again == [workdir / "stages" / path.relative_to(workdir).parts[1]]
    assert records(workdir).equals(records(unbroken))
