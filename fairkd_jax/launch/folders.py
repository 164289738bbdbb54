"""The flag `--workdir`, that most launchers share."""

from absl import flags

from fairkd_jax import files
from fairkd_jax.types import Path

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of stages and studies, on a disk or gs://.")


def workdir() -> Path:
    """The folder. Raises IllegalFlagValueError without the flag, ValueError where no net can be."""
    if not WORKDIR.value:
        raise flags.IllegalFlagValueError("--workdir=FOLDER is needed: everything is written there")
    return files.for_nets(WORKDIR.value)
