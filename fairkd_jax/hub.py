"""What a config names, a local path or a model of the Hugging Face hub, as a local path."""

import functools
import json
import pathlib
import re
from typing import Any

from fairkd_jax import buckets, files

FILES = ("*.json", "*.safetensors", "*.txt", "*.model")  # nothing that unpickling would run
NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def resolve(name: str) -> pathlib.Path:
    """A folder or file that exists, as it is; else the folder of a hub model, fetched if need be.

    That of a bucket is copied to this disk.

    A hub name is "org/model" or "model". Configs, tokenizers and safetensors are fetched, and kept
    in the hub library's cache. Raises FileNotFoundError where neither is there to be had.
    """
    path = buckets.path(name)
    if name and path.exists():
        return buckets.near_folder(path, FILES) if path.is_dir() else buckets.near(path)
    reason: Exception | None = None
    why = "that is no hub name"
    if NAME.fullmatch(name):
        try:
            return _fetch(name)
        except Exception as error:  # its own, and those of the HTTP library that it uses
            reason, why = error, f"the hub gave none: {type(error).__name__}: {error}"
    raise FileNotFoundError(
        f"{name!r} is neither a local folder or file ({files.whole(path)} does not exist) nor a "
        f"model of the Hugging Face hub, 'org/model' or 'model' ({why})"
    ) from reason


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError that says what the file is where it holds none."""
    content = file.read_bytes()
    try:
        found = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{file} is no JSON{_instead(content) or f': {error}'}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds {type(found).__name__}, not a JSON object: {found!r:.60}")
    return found


def instead(file: pathlib.Path) -> str:
    """What a file is that was fetched badly, and what to do; "" where that cannot be told."""
    with file.open("rb") as stream:
        return _instead(stream.read(512))


def _instead(start: bytes) -> str:
    if not start.strip():
        return " but empty: fetch it again"
    if start.startswith(b"version https://git-lfs"):
        return " but a pointer of Git LFS: run 'git lfs pull' where it was cloned"
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return " but a page of HTML: fetch the file itself, not the page that shows it"
    return ""


@functools.cache
def _fetch(name: str) -> pathlib.Path:
    """Asks the hub once in a process."""
    import huggingface_hub

    return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=FILES))
