"""Trains and scores one run of an experiment: teacher, baseline or distilled student.

    python launch/train.py --config=configs/colored_digits.py --workdir=runs/one --role=distilled
    python launch/train.py --config=... --workdir=... --config.mix.scope=task
    python launch/train.py --config=... --workdir=... --smoke

A distilled student's teacher is trained first unless the folder holds it. SIGTERM saves and ends
with status 75; the same command goes on.
"""

import json

import runtime
from absl import app, flags
from ml_collections import config_flags

from fairkd_jax import config
from fairkd_jax.study import check, execute, plan

CONFIG = config_flags.DEFINE_config_file("config", None, "A file in configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of stages; a study may share it.")
ROLE = flags.DEFINE_enum("role", "distilled", ["teacher", "baseline", "distilled"], "Which run.")
SMOKE = flags.DEFINE_bool("smoke", False, "Few steps, few examples: does it all run?")


flags.adopt_module_key_flags(runtime)


@runtime.told
def main(argv: list[str]) -> None:
    """Trains, scores, prints."""
    del argv
    workdir = runtime.folder(WORKDIR.value)
    study = config.Study(experiment=config.parse(config.Experiment, CONFIG.value), seeds=1)
    study = plan.smoke(study) if SMOKE.value else study
    mesh = runtime.start(workdir)
    chosen = [run for run in check.check(study) if run.role == ROLE.value]
    execute.run_stages(chosen, workdir, mesh, ROLE.value)
    for run in chosen:
        print(f"{run.name}: {workdir / 'stages' / run.net.identity}")
        for name, stage in run.evaluations.items():
            path = workdir / "stages" / stage.identity / "result.json"
            for metric, value in json.loads(path.read_text())["metrics"].items():
                print(f"  {name}/{metric:40} {'–' if value is None else format(value, '.4f'):>8}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
