"""Programs are kept from process to process, for one kind of machine, and counted."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from fairkd_jax import compiled

PROGRAM = """
import json, pathlib, sys
import jax
from fairkd_jax import compiled
compiled.keep(pathlib.Path(sys.argv[1]))
jax.jit(lambda x: jax.numpy.tanh(x @ x))(jax.numpy.ones((8, 8)))
print(json.dumps([jax.config.jax_compilation_cache_dir or "none", compiled.spent().told()]))
"""


@pytest.fixture
def untold(monkeypatch):
    """Processes are told of no folder in the environment."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")


def run(folder):
    """(where programs are kept, what a process that compiles a few has spent on them)."""
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    place, told = json.loads(done.stdout)
    return pathlib.Path(place), told


def test_a_second_process_reads_what_the_first_compiled_and_not_what_was_cut(tmp_path, untold):
    place, first = run(tmp_path)
    assert place.parent == tmp_path / "programs"
    assert first["programs"] > 0 == first["programs_read"]
    assert run(tmp_path)[1] | {"compile_seconds": 0} == {
        "compile_seconds": 0,
        "programs": first["programs"],
        "programs_read": first["programs"],
    }
    entry = max(place.glob("*-cache"), key=lambda path: path.stat().st_size)
    entry.write_bytes(entry.read_bytes()[:100])  # as a process leaves it that is killed meanwhile
    entry.with_name(entry.name.replace("-cache", "-atime")).unlink()
    assert run(tmp_path)[1]["programs_read"] == first["programs"] - 1
    assert run(tmp_path)[1]["programs_read"] == first["programs"]


def test_another_kind_of_machine_has_a_folder_of_its_own(monkeypatch):
    here = compiled._machine()
    assert here == compiled._machine()
    monkeypatch.setattr(compiled.platform, "processor", lambda: "another")
    assert compiled._machine() != here


def test_a_folder_that_jax_was_told_of_is_taken(tmp_path):
    told = os.environ["JAX_COMPILATION_CACHE_DIR"]
    assert run(tmp_path)[0] == pathlib.Path(told)
    assert not [*tmp_path.iterdir()]


def test_what_is_spent_is_counted():
    before = compiled.spent()
    jax.jit(lambda x: jnp.sin(x) + 0.12345)(jnp.ones(3)).block_until_ready()
    told = (compiled.spent() - before).told()
    assert told["programs"] >= 1
    assert told["compile_seconds"] > 0


def test_a_folder_that_cannot_be_written_is_warned_of_and_stops_nothing(tmp_path, untold):
    (tmp_path / "programs").write_text("no folder")
    place, told = run(tmp_path)
    assert told["programs"] > 0 == told["programs_read"]
    assert place == pathlib.Path("none")
