"""A claim: one holder among many, taken over from the dead, lost when another took it."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from fairkd_jax import files
from fairkd_jax.study import claim
from fairkd_jax.study.claim import Claim, ClaimLost, this_process

pytestmark = pytest.mark.quick


def test_one_of_many_at_once_has_it(tmp_path):
    for trial in range(20):
        made = [Claim(tmp_path / str(trial)) for _ in range(6)]
        start, found = threading.Barrier(len(made)), [None] * len(made)

        def attempt(i, made=made, start=start, found=found):
            start.wait()
            found[i] = made[i].attempt()

        threads = [threading.Thread(target=attempt, args=(i,)) for i in range(len(made))]
        [t.start() for t in threads]
        [t.join() for t in threads]
        having = [c for c, other in zip(made, found) if other is None]
        assert len(having) == 1, found
        assert all(other == this_process() for other in found if other is not None)
        having[0].guard()
        having[0].release()
        assert not (tmp_path / str(trial) / claim.FOLDER).exists()
        assert made[0].attempt() is None  # free again
        made[0].release()


def foreign(folder, **changes) -> None:
    """A claim of a process of another machine."""
    holder = dataclasses.asdict(this_process()) | {"host": "elsewhere", "machine": "other"}
    (folder / claim.FOLDER).mkdir(parents=True, exist_ok=True)
    content = json.dumps(holder | {"number": 1, "beat": 0} | changes)
    (folder / claim.FOLDER / "feed.json").write_text(content)


def test_that_of_another_machine_is_void_when_it_is_not_renewed(tmp_path):
    foreign(tmp_path)
    ours = Claim(tmp_path, lease=0.6)
    assert ours.attempt().host == "elsewhere"
    for beat in range(1, 4):
        time.sleep(0.3)
        foreign(tmp_path, beat=beat)
        assert ours.attempt().host == "elsewhere"
    time.sleep(0.7)
    assert ours.attempt() is None
    ours.release()


@pytest.mark.parametrize("content", ["", "{", '{"host": 1}', "[]"])
def test_a_damaged_one_is_void_when_it_is_not_renewed(tmp_path, content):
    foreign(tmp_path)
    (tmp_path / claim.FOLDER / "feed.json").write_text(content)
    ours = Claim(tmp_path, lease=0.2)
    assert ours.attempt() is not None
    time.sleep(0.3)
    assert ours.attempt() is None
    ours.release()


def test_that_of_a_process_that_is_gone_is_taken_over_at_once(tmp_path):
    program = (
        "import pathlib, sys\nfrom fairkd_jax.study.claim import Claim\n"
        "assert Claim(pathlib.Path(sys.argv[1])).attempt() is None\nimport os\nos._exit(9)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert ended.returncode == 9 and list(tmp_path.glob("claims/*.json"))
    ours = Claim(tmp_path)
    assert ours.attempt() is None
    ours.release()


def test_a_number_used_again_is_another_process(tmp_path):
    foreign(tmp_path, machine=this_process().machine, process=os.getpid(), started="1")
    ours = Claim(tmp_path)
    assert ours.attempt() is None
    ours.release()


def test_guard_tells_when_it_was_taken_over(tmp_path):
    ours = Claim(tmp_path, lease=0.2)
    assert ours.attempt() is None
    ours.guard()
    files.remove(tmp_path / claim.FOLDER)
    with pytest.raises(ClaimLost, match="no longer claimed by this process"):
        ours.guard()
    ours.release()


def test_it_is_renewed(tmp_path):
    ours = Claim(tmp_path, lease=0.2)
    assert ours.attempt() is None
    other = Claim(tmp_path, lease=10.0)
    for _ in range(6):
        time.sleep(0.1)
        assert other.attempt() == this_process()
    (path,) = tmp_path.glob("claims/*.json")
    assert json.loads(path.read_text())["beat"] > 3
    ours.release()
