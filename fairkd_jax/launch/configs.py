"""The flags `--config` and `--smoke`: a config is named by a path, or as one of those shipped.

--config=quickstart                 shipped: configs/studies/quickstart.py
--config=nli_small:FOLDER           what follows the colon is read by the config
--config=my/study.py                any file with a `get_config`
--config=quickstart --config.seeds=5 --config.experiment.student.train.steps=300
"""

import importlib.util
import inspect
import pathlib
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

import fairkd_jax
from fairkd_jax import registry
from fairkd_jax.config import Experiment, Study, parse
from fairkd_jax.registry import Faulty, UnknownName

CONFIG = config_flags.DEFINE_config_file("config", None, "Name or path of a config; NAME:ARGUMENT.")
SMOKE = flags.DEFINE_bool("smoke", False, "One seed, few steps, few examples: does it all run?")


def shipped() -> dict[str, pathlib.Path]:
    """Files of `configs/` by name: those in the wheel, or those of the checkout."""
    package = pathlib.Path(fairkd_jax.__file__).parent
    inside = package / "configs"
    folder = inside if inside.is_dir() else package.parent / "configs"
    return {path.stem: path for path in sorted(folder.rglob("*.py"))}


def find(name: str) -> pathlib.Path:
    """The file of a config. Raises UnknownName, listing those that are shipped."""
    path, known = pathlib.Path(name).expanduser(), shipped()
    if not path.is_file() and name not in known:
        raise UnknownName(name, "config", known, "; or the path of a file that has a get_config()")
    return path if path.is_file() else known[name]


class _Parser(flags.ArgumentParser):
    """Finds configs by name, and tells what is wrong with one in a message."""

    def parse(self, path: str) -> Any:
        """What `get_config` returns. Raises UnknownName, Faulty naming file and line."""
        name, *argument = path.split(":", 1)
        file = find(name)
        spec = importlib.util.spec_from_file_location("config_of_a_flag", file)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
            _check_argument(path, module.get_config, argument)
            config = module.get_config(*argument)
        except (ValueError, OSError):  # what it says itself of its argument
            raise
        except Exception as error:
            raise Faulty(
                f"config {name!r}: {registry.line_of(error, module.__name__)}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(config, ConfigDict):
            raise Faulty(
                f"config {name!r}: get_config() in {file} returns a {type(config).__name__}, not a "
                "ConfigDict: end it by `return as_config_dict(...)`"
            )
        return config.lock()


def _check_argument(path: str, get_config: Callable[..., Any], argument: list[str]) -> None:
    signature = inspect.signature(get_config)
    try:
        signature.bind(*argument)
    except TypeError as error:
        raise ValueError(
            f"config {path!r}: {error}; what follows the colon is read by get_config{signature}"
        ) from error


flags.FLAGS["config"].parser = _Parser()


def asked(kind: type) -> Any:
    """The config of the flags, a Study or an Experiment.

    Raises IllegalFlagValueError where there is none, or it is of the other kind.
    """
    if CONFIG.value is None:
        raise flags.IllegalFlagValueError(
            f"--config is needed: {', '.join(shipped())}, or the path of a file"
        )
    found = Study if "experiment" in CONFIG.value else Experiment
    if found is not kind:
        launcher = {Study: "fairkd-study", Experiment: "fairkd-train"}[found]
        raise flags.IllegalFlagValueError(
            f"--config={flags.FLAGS['config'].config_filename} is a config of {found.__name__}: "
            f"{launcher} runs it"
        )
    return parse(kind, CONFIG.value)


def given() -> dict[str, Any]:
    """The dotted keys that flags set in it, with their values."""
    return config_flags.get_override_values(flags.FLAGS["config"])
