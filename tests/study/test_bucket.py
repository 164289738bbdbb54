"""A work folder in a bucket: the same command, the same numbers, whatever happens on the way.

The bucket is an emulated one (bucket_server.py) that answers now and then by 503.
"""

import importlib.util
import io
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pandas
import pytest
from disturbed import Run, records, zygote
from ports import free_port

from fairkd_jax import buckets, files, hub
from fairkd_jax.data.tables import read_table, write_table
from fairkd_jax.models import pretrained
from fairkd_jax.models.net import make_net
from fairkd_jax.registry import UnknownName
from fairkd_jax.train.checkpoint import Checkpoints
from fairkd_jax.types import Path

PACKAGES = ("gcsfs", "gcp_storage_emulator")
pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(p) for p in PACKAGES), reason=f"needs {' and '.join(PACKAGES)}"
)
# Every so many requests; its clients then wait for a second or more, and a study takes thousands.
UNAVAILABLE = ("400", pytest.param("25", marks=pytest.mark.slow))


@pytest.fixture(scope="module", params=UNAVAILABLE)
def bucket(request, tmp_path_factory):
    """An empty bucket, and the environment in which all clients find it."""
    port, here = free_port(), pathlib.Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, str(here / "bucket_server.py"), str(port), request.param],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it would be asked for by gRPC, and wait
            "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        }.items():
            patch.setenv(name, value)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield buckets.path("gs://bucket")
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def launch(bucket, tmp_path_factory):
    with zygote(tmp_path_factory.mktemp("zygote")) as made:
        yield made


@pytest.fixture(scope="module")
def unbroken(launch, tmp_path_factory) -> pandas.DataFrame:
    """Records of the study in a folder of this disk."""
    workdir = tmp_path_factory.mktemp("unbroken")
    assert launch.study(workdir).wait(300) == 0
    return records(workdir)


def there(workdir: Path) -> pandas.DataFrame:
    content = (workdir / "studies" / "tiny" / "report" / "records.csv").read_text()
    return pandas.read_csv(io.StringIO(content))


def wait(run: Run) -> None:
    assert run.wait(300) == 0, run.said[-3000:]


def kill_when(run: Run, happened) -> None:
    while not happened():
        assert run.poll() is None, run.said[-3000:]
        time.sleep(0.3)
    run.kill()


def test_killed_and_launched_twice_it_ends_as_on_a_disk(launch, bucket, unbroken):
    workdir = bucket / "twice"
    kill_when(launch.study(workdir), lambda: any(workdir.glob("stages/*/checkpoints/10")))
    both = [launch.study(workdir), launch.study(workdir)]
    for run in both:
        wait(run)
    pandas.testing.assert_frame_equal(there(workdir), unbroken, check_exact=True)
    assert "is being written by process" in both[0].said + both[1].said
    left = {name.split("/")[1] for name in buckets.listing(workdir / "stages")}
    assert not left & {"claims", "checkpoints"}
    again = launch.study(workdir)
    wait(again)
    assert "train" not in again.said
    verified = launch.start("study", workdir, "--verify")
    wait(verified)
    assert " 0 unfinished, 0 damaged" in verified.said


def test_a_damaged_object_is_told_and_done_again(launch, bucket, unbroken):
    workdir = bucket / "twice"
    result = sorted(workdir.glob("stages/*/result.json"))[0]
    content = result.read_text()
    result.write_text(content.replace("1", "2", 1))
    verified = launch.start("study", workdir, "--verify")
    assert verified.wait(60) == 1
    assert f"{result.parent}: result.json holds something else" in verified.said
    wait(launch.study(workdir))
    assert result.read_text() == content
    pandas.testing.assert_frame_equal(there(workdir), unbroken, check_exact=True)


@pytest.mark.slow
def test_two_processes(launch, bucket, unbroken):
    flags = [f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
    workdir = bucket / "two"
    for run in [launch.study(workdir, *flags, f"--process_id={i}") for i in range(2)]:
        wait(run)
    values = ["value"]
    got = there(workdir)
    pandas.testing.assert_frame_equal(got.drop(columns=values), unbroken.drop(columns=values))
    pandas.testing.assert_frame_equal(got[values], unbroken[values], rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_killed_at_many_moments(launch, bucket, unbroken):
    rng = np.random.default_rng(0)
    for i in range(10):
        workdir = bucket / f"killed{i}"
        for _ in range(3):
            run = launch.study(workdir)
            time.sleep(rng.uniform(1, 15))
            run.kill()
        wait(launch.study(workdir))
        pandas.testing.assert_frame_equal(there(workdir), unbroken, check_exact=True)


def test_sigterm_saves_in_a_bucket(launch, bucket, unbroken):
    workdir = bucket / "term"
    run = launch.study(workdir)
    while not any(workdir.glob("stages/*/checkpoints/*")):
        time.sleep(0.3)
    os.kill(run.pid, signal.SIGTERM)
    assert run.wait(120) == 75, run.said[-3000:]
    assert "the same command goes on" in run.said


def test_a_checkpoint_whose_last_file_is_missing_is_unfinished(bucket):
    state = {"w": jax.numpy.arange(3.0)}
    checkpoints = Checkpoints(bucket / "checkpoints")
    for step in (1, 2):
        checkpoints.save(step, state, {"at": step})
    checkpoints.close()
    files.remove(bucket / "checkpoints" / "2" / "commit_success.txt")
    again = Checkpoints(bucket / "checkpoints")
    assert again.restore(state)[1] == {"at": 1} and again.steps() == [1]
    again.close()


def test_files_of_a_bucket(bucket, tmp_path):
    file = bucket / "files" / "a" / "b.json"
    files.write_sealed(file, {"a": [1.5, None]})
    assert files.read_sealed(file) == {"a": [1.5, None]}
    first = files.digest(file)
    files.write(file, "other")
    assert files.digest(file) != first
    with pytest.raises(files.Damaged, match=r"gs://bucket/files/a/b\.json is damaged"):
        files.read_sealed(file)
    found = files.digests(bucket / "files", leave=("c",))
    assert found == {"a/b.json": files.digest(file)}
    assert files.faults(bucket / "files", found | {"x": "1"}) == ["x is missing"]
    near = buckets.near(file)
    assert near.read_text() == "other" and buckets.near(file) == near
    files.write(file, "new")
    assert buckets.near(file).read_text() == "new" and near.read_text() == "other"
    files.remove(bucket / "files")
    files.remove(bucket / "files")
    assert not file.exists()
    with pytest.raises(FileNotFoundError):
        files.digest(file)


def test_tables_of_a_bucket(bucket, tmp_path):
    columns = {"logits": np.arange(6, dtype=np.float32).reshape(3, 2), "none": np.zeros((3, 0))}
    for scale in (1, 2):
        columns = {k: v * scale for k, v in columns.items()}
        write_table(bucket / "table", np.array([3, 1, 2]), columns, {"scale": scale})
        table = read_table(bucket / "table")
        assert table.about == {"scale": scale}
        np.testing.assert_array_equal(table.columns["logits"], columns["logits"][[1, 2, 0]])
    with pytest.raises(FileNotFoundError, match="no table in gs://bucket/nowhere"):
        read_table(bucket / "nowhere")


def test_a_folder_of_weights_is_copied_to_this_disk(bucket):
    for name, content in {"config.json": "{}", "vocab.txt": "a", "model.bin": "pickled"}.items():
        files.write(bucket / "weights" / name, content)
    near = hub.resolve("gs://bucket/weights")
    assert sorted(p.name for p in near.iterdir()) == ["config.json", "vocab.txt"]
    assert hub.resolve("gs://bucket/weights") == near
    with pytest.raises(FileNotFoundError, match="gs://bucket/nothing"):
        hub.resolve("gs://bucket/nothing")


def test_a_net_is_exported_into_a_bucket(bucket):
    facts = {"wordpiece": {"vocab_size": 30, "length": 9}}
    net = make_net({"name": "bert", "depth": 1, "width": 8, "heads": 2, "mlp_width": 8}, 2, facts)
    variables = jax.tree.map(lambda x: np.ones(x.shape), net.variable_shapes())
    folder, names = bucket / "exported", ("no", "yes")
    pretrained.save(net, variables, folder, names)
    pretrained.check(net, str(folder), label_names=names)
    with pytest.raises(FileExistsError, match=r"gs://bucket/exported/model\.safetensors"):
        pretrained.save(net, variables, folder, names)


def test_what_cannot_be_read_is_named(monkeypatch):
    with pytest.raises(UnknownName, match=r"scheme of http://x/y: 'http'.*gs, s3"):
        buckets.path("http://x/y")
    monkeypatch.setattr(buckets, "SCHEMES", {"gs": ("no_such_package", "gcs")})
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fairkd_jax\[gcs\]'"):
        buckets.path("gs://x/y")
