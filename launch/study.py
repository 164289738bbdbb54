"""Runs a whole study: every stage once, then the report. Launch it again and it goes on.

    python launch/study.py --config=configs/studies/quickstart.py --workdir=runs/quickstart
    python launch/study.py --config=... --workdir=... --dry_run    what is done, what is missing
    python launch/study.py --config=... --workdir=... --smoke      every stage kind, in seconds
    python launch/study.py --config=... --workdir=... --config.seeds=9    new seeds run
    python launch/study.py --config=... --workdir=... --fake_devices=8    shardings, on a laptop
    python launch/study.py --workdir=... --verify    is every finished stage what was written?

Studies of one work folder share its stages; each has a folder of its own, studies/NAME, with its
report. A smoke run is a study of another name, NAME-smoke. On a pod, the same command on every host
(launch/tpu_pod.sh). SIGTERM saves and ends with status 75.
"""

import sys

import jax
import runtime
from absl import app, flags
from ml_collections import config_flags

from fairkd_jax import config
from fairkd_jax.report import html
from fairkd_jax.study import check, execute, plan, verify

CONFIG = config_flags.DEFINE_config_file("config", None, "A file in configs/studies/.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of stages and studies.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what is done and what is missing, and end.")
SMOKE = flags.DEFINE_bool("smoke", False, "One seed, few steps, few examples: does it all run?")
VERIFY = flags.DEFINE_bool("verify", False, "Read all of the folder, say what is wrong, and end.")


flags.adopt_module_key_flags(runtime)


@runtime.told
def main(argv: list[str]) -> None:
    """Checks, runs, reports."""
    del argv
    workdir = runtime.folder(WORKDIR.value)
    if VERIFY.value:
        lines, wrong = verify.verify(workdir)
        print("\n".join(lines))
        sys.exit(1 if wrong else 0)
    if CONFIG.value is None:
        raise flags.IllegalFlagValueError("--config=FILE is needed: a file in configs/studies/")
    study = config.parse(config.Study, CONFIG.value)
    study = plan.smoke(study) if SMOKE.value else study
    given = config_flags.get_override_values(flags.FLAGS["config"])
    mesh = runtime.start(workdir)
    if DRY_RUN.value:
        print(execute.table_of_stages(check.check(study, given), workdir))
        return
    folder = execute.run(study, workdir, mesh, given)
    report = html.write(folder)
    if jax.process_index() == 0:
        print(f"report: {report}")


if __name__ == "__main__":
    app.run(main)
