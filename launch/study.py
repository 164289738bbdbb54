"""Runs a whole study: every stage once, then the report. Launch it again and it goes on.

    python launch/study.py --config=configs/studies/quickstart.py --workdir=runs/quickstart
    python launch/study.py --config=... --workdir=... --dry_run    what is done, what is missing
    python launch/study.py --config=... --workdir=... --smoke      every stage kind, in seconds
    python launch/study.py --config=... --workdir=... --config.seeds=9    new seeds run
    python launch/study.py --config=... --workdir=... --fake_devices=8    shardings, on a laptop

On a pod, the same command on every host (launch/tpu_pod.sh). SIGTERM saves and ends with status 75.
"""

import sys

import jax
import runtime
from absl import app, flags
from ml_collections import config_flags

from fairkd_jax import config
from fairkd_jax.report import html
from fairkd_jax.study import execute, plan
from fairkd_jax.train import loop

CONFIG = config_flags.DEFINE_config_file("config", None, "A file in configs/studies/.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of stages and report.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what is done and what is missing, and end.")
SMOKE = flags.DEFINE_bool("smoke", False, "One seed, few steps, few examples: does it all run?")


flags.adopt_module_key_flags(runtime)


def main(argv: list[str]) -> None:
    """Checks, runs, reports."""
    del argv
    workdir = runtime.folder(WORKDIR.value)
    study = config.parse(config.Study, CONFIG.value)
    study = plan.smoke(study) if SMOKE.value else study
    mesh = runtime.start()
    if DRY_RUN.value:
        print(execute.table_of_stages(execute.check(study), workdir))
        return
    try:
        execute.run(study, workdir, mesh)
    except loop.Interrupted as stop:
        print(f"{stop}: the same command goes on", file=sys.stderr)
        sys.exit(75)
    if jax.process_index() == 0:
        print(f"report: {html.write(workdir)}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
