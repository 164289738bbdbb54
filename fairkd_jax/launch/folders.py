"""The flag `--workdir`, that most launchers share."""

from absl import flags

from fairkd_jax import buckets, files
from fairkd_jax.types import Path

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of stages and studies, on a disk or gs://.")


def workdir() -> Path:
    """The folder. Raises IllegalFlagValueError where there is no flag, or where nets cannot be."""
    if not WORKDIR.value:
        raise flags.IllegalFlagValueError("--workdir=FOLDER is needed: everything is written there")
    if WORKDIR.value.startswith("s3://"):
        raise flags.IllegalFlagValueError(
            f"--workdir={WORKDIR.value}: Orbax, which writes the nets, knows folders and gs:// "
            "alone. Mount the bucket, and name the folder"
        )
    return files.whole(buckets.path(WORKDIR.value))
