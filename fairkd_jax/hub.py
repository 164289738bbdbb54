"""What a config names, a local path or a model of the Hugging Face hub, as a local path."""

import functools
import pathlib
import re

FILES = ("*.json", "*.safetensors", "*.txt", "*.model")  # nothing that unpickling would run
NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def resolve(name: str) -> pathlib.Path:
    """A folder or file that exists, as it is; else the folder of a hub model, fetched if need be.

    A hub name is "org/model" or "model". Configs, tokenizers and safetensors are fetched, and kept
    in the hub library's cache. Raises FileNotFoundError where neither is there to be had.
    """
    path = pathlib.Path(name).expanduser()
    if name and path.exists():
        return path
    reason: Exception | None = None
    why = "that is no hub name"
    if NAME.fullmatch(name):
        try:
            return _fetch(name)
        except Exception as error:  # its own, and those of the HTTP library that it uses
            reason, why = error, f"the hub gave none: {type(error).__name__}: {error}"
    raise FileNotFoundError(
        f"{name!r} is neither a local folder or file ({path.absolute()} does not exist) nor a "
        f"model of the Hugging Face hub, 'org/model' or 'model' ({why})"
    ) from reason


@functools.cache
def _fetch(name: str) -> pathlib.Path:
    """Asks the hub once in a process."""
    import huggingface_hub

    return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=FILES))
