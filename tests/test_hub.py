"""Names of weights and tokenizers: local paths as they are, hub names fetched without pickles."""

import fnmatch
import pathlib

import huggingface_hub
import pytest

from fairkd_jax.hub import resolve

pytestmark = pytest.mark.quick


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    """Replaces the download; the list of what was asked for."""
    calls = []

    def download(name, allow_patterns):
        calls.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls


def test_a_local_path_is_taken_as_it_is(tmp_path, fetched, monkeypatch):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert resolve(str(tmp_path)) == tmp_path
    assert resolve(str(file)) == file
    assert resolve("model.safetensors") == pathlib.Path("model.safetensors")
    assert resolve(f"~/{tmp_path.name}") == tmp_path
    assert not fetched


def test_a_hub_name_is_fetched_without_pickles(tmp_path, fetched):
    assert resolve("google-t5/t5-small") == tmp_path == resolve("gpt2")
    assert [name for name, _ in fetched] == ["google-t5/t5-small", "gpt2"]
    repository = ["config.json", "model.safetensors", "vocab.txt", "spiece.model", "README.md"]
    repository += ["pytorch_model.bin", "model.pt", "flax_model.msgpack", "optimizer.pkl", "a.py"]
    taken = [f for f in repository if any(fnmatch.fnmatch(f, p) for p in fetched[0][1])]
    assert taken == repository[:4]


def test_nothing_there_names_both_choices(tmp_path, fetched, monkeypatch):
    for name in (str(tmp_path / "nowhere"), "./a", "a/b/c", "a b", ""):
        with pytest.raises(FileNotFoundError, match="no hub name") as error:
            resolve(name)
        assert repr(name) in str(error.value)
    assert not fetched

    def offline(name, allow_patterns):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        FileNotFoundError, match=r"'org/modell'.*local folder.*hub.*ConnectionError: no network"
    ):
        resolve("org/modell")
