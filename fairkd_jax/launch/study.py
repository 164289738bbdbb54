"""Runs a whole study: every stage once, then the report. Launch it again and it goes on.

    fairkd-study --config=quickstart --workdir=runs/quickstart
    fairkd-study --config=... --workdir=... --dry_run    what is done, what is missing
    fairkd-study --config=... --workdir=... --smoke      every stage kind, in seconds
    fairkd-study --config=... --workdir=... --config.seeds=9    new seeds run
    fairkd-study --config=... --workdir=... --tuned=FILE    with options that fairkd-tune chose
    fairkd-study --config=... --workdir=... --fake_devices=8    shardings, on a laptop
    fairkd-study --config=... --workdir=... --tensorboard    also to W/tensorboard; or --wandb
    fairkd-study --config=... --workdir=... --workers=2     stages side by side, by Ray: .[fleet]
    fairkd-study --config=... --workdir=W --cluster=HOST:6379   on all machines of a Ray cluster
    fairkd-study --workdir=... --verify    is every finished stage what was written?

A config is named by its path, or as one of those shipped; a wrong name lists them. What a config
reads follows its name and a colon: --config=nli_small:FOLDER.

Studies of one work folder share its stages; each has a folder of its own, studies/NAME, with its
report. Workers are processes of this machine (--workers=N, or auto: as it has room), each with a
share of its cores, or one GPU, or the chips of a TPU host; with --cluster they are where Ray has
room, and all its machines see one work folder, code and data. A worker that dies gives its stage
back. Records are those of one process. A smoke run is a study of another name, NAME-smoke. On a
pod, the same command on every host (launch/tpu_pod.sh). SIGTERM saves and ends with status 75.
"""

import sys

import jax
from absl import flags

from fairkd_jax import buckets
from fairkd_jax.config import Study
from fairkd_jax.launch import configs, dryrun, folders, runtime, workers
from fairkd_jax.report import html
from fairkd_jax.study import check, execute, plan, tune, verify
from fairkd_jax.train.trackers import TRACKERS

TUNED = flags.DEFINE_string("tuned", None, "What fairkd-tune chose for the values of its axis.")
VERIFY = flags.DEFINE_bool("verify", False, "Read all of the folder, say what is wrong, and end.")
TRACK = {
    name: flags.DEFINE_bool(name, False, f"Tell {tracker.__name__} the log of training too.")
    for name, tracker in TRACKERS.items()
}

flags.adopt_module_key_flags(runtime)
flags.adopt_module_key_flags(folders)
flags.adopt_module_key_flags(configs)
flags.adopt_module_key_flags(dryrun)
flags.adopt_module_key_flags(workers)


def main(argv: list[str]) -> None:
    """Checks, runs, reports."""
    del argv
    workdir = folders.workdir()
    if VERIFY.value:
        lines, wrong = verify.verify(workdir)
        print("\n".join(lines))
        sys.exit(1 if wrong else 0)
    study = configs.asked(Study)
    study = tune.tuned(study, buckets.path(TUNED.value)) if TUNED.value else study
    study = plan.smoke(study) if configs.SMOKE.value else study
    given = configs.given()
    if dryrun.DRY_RUN.value:
        runtime.start(workdir)
        print(execute.table_of_stages(check.check(study, given), workdir))
        return
    told = tuple(name for name, flag in TRACK.items() if flag.value)
    if workers.asked():
        with workers.leading() as (mesh, crew):
            folder = execute.run(study, workdir, mesh, given, told, crew)
    else:
        folder = execute.run(study, workdir, runtime.start(workdir), given, told)
    report = html.write(folder)
    if jax.process_index() == 0:
        print(f"report: {report}")


script = runtime.script(main)
