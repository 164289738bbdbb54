"""The flag `--dry_run` of the launchers that plan stages."""

from absl import flags

DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what is done and what is missing, and end.")
