"""Chooses options of every method of a study by validation alone, with as many trials for each.

    fairkd-tune --config=methods_images --workdir=runs/methods              eight trials, two seeds
    fairkd-tune --config=methods_images --workdir=runs/methods --dry_run    what would be tried
    fairkd-study --config=methods_images --workdir=runs/methods --tuned=runs/methods/tuned/NAME.json

A study has an axis, a method a value of it. The first trial of each is the value as the config has
it. In every other trial some options are drawn at random, without repeats: those of the config's
`search` and those that the method's own file says are worth trying. Seeds of trials are none of
the study's, and no test split is read. Written are `tuned/NAME.csv`, every trial, and
`tuned/NAME.json`, what was chosen. Launch it again and it goes on; finished trials are not trained
again, and neither is what a study shares with them.
"""

import jax
from absl import flags

from fairkd_jax.config import Study
from fairkd_jax.launch import configs, dryrun, folders, runtime
from fairkd_jax.study import execute, tune

TRIALS = flags.DEFINE_integer("trials", 8, "Settings of each value of the axis.", lower_bound=1)
SEEDS = flags.DEFINE_integer("seeds", 2, "Nets of each setting.", lower_bound=1)
WHOSE = flags.DEFINE_enum("whose", "teacher", tune.ROLES, "Whose net is trained and scored.")

flags.adopt_module_key_flags(runtime)
flags.adopt_module_key_flags(folders)
flags.adopt_module_key_flags(configs)
flags.adopt_module_key_flags(dryrun)


def main(argv: list[str]) -> None:
    """Draws, trains, scores, chooses."""
    del argv
    workdir = folders.workdir()
    study = configs.asked(Study)
    asked = tune.trials(study, WHOSE.value, TRIALS.value, SEEDS.value)
    mesh = runtime.start(workdir)
    if dryrun.DRY_RUN.value:
        runs = [run for trial in asked for run in trial.runs]
        print(execute.table_of_stages(runs, workdir))
        return
    table = tune.run(study, asked, workdir, mesh)
    path = tune.write(study, table, workdir)
    if jax.process_index() == 0:
        print(tune.choose(table).to_string(index=False))
        print(f"chosen: {path}")


script = runtime.script(main)
