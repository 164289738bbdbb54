"""Trains and scores one run of an experiment: teacher, baseline, rungs or distilled student.

    fairkd-train --config=colored_digits --workdir=runs/one --role=distilled
    fairkd-train --config=... --workdir=... --config.mix.scope=task
    fairkd-train --config=... --workdir=... --smoke

A distilled student's teacher is trained first unless the folder holds it. SIGTERM saves and ends
with status 75; the same command goes on.
"""

import json

from absl import flags

from fairkd_jax.config import Experiment, Study
from fairkd_jax.launch import configs, folders, runtime
from fairkd_jax.study import check, execute, plan

ROLE = flags.DEFINE_enum(
    "role", "distilled", ["teacher", "baseline", "rung", "distilled"], "Which run."
)

flags.adopt_module_key_flags(runtime)
flags.adopt_module_key_flags(folders)
flags.adopt_module_key_flags(configs)


def main(argv: list[str]) -> None:
    """Trains, scores, prints."""
    del argv
    workdir = folders.workdir()
    study = Study(experiment=configs.asked(Experiment), seeds=1)
    study = plan.smoke(study) if configs.SMOKE.value else study
    mesh = runtime.start(workdir)
    chosen = [run for run in check.check(study) if run.role == ROLE.value]
    if not chosen:
        raise ValueError(
            f"--role={ROLE.value}: this experiment has none. Say its rungs, or another"
        )
    execute.run_stages(chosen, workdir, mesh, ROLE.value)
    for run in chosen:
        print(f"{run.name}: {workdir / 'stages' / run.net.identity}")
        for name, stage in run.evaluations.items():
            path = workdir / "stages" / stage.identity / "result.json"
            for metric, value in json.loads(path.read_text())["metrics"].items():
                print(f"  {name}/{metric:40} {'–' if value is None else format(value, '.4f'):>8}")


script = runtime.script(main)
