"""Coloured digits: is Group DRO's robustness still there in the student distilled from its teacher?

    python launch/study.py --config=configs/studies/quickstart.py --workdir=runs/quickstart

Real handwriting; colour agrees with the label on 95 % of the training images and on half of the
test images. Two methods, two places for the distillation loss (inside or outside the debiasing),
nine seeds.
"""

from fairkd_jax.config import (
    Compare,
    Data,
    Experiment,
    Mix,
    Optim,
    Role,
    Study,
    Train,
    as_config_dict,
)
from fairkd_jax.registry import defaults

SLOW, FAST = (
    Optim(learning_rate=rate, weight_decay=2.0, schedule="constant") for rate in (2e-4, 2e-3)
)
# With 54 training images against the shortcut a net soon learns them by heart, and Group DRO then
# has nothing left to weigh: hence early stopping, by one rule for all nets.
TRAIN = Train(steps=200, batch_size=128, select="val_worst_group", eval_every=25)
GROUP_DRO = defaults("debias", "group_dro") | {"step_size": 0.1}


def get_config():
    """The study; every value may be overridden: --config.experiment.student.train.steps=300."""
    return as_config_dict(
        Study(
            name="quickstart",
            seeds=9,
            experiment=Experiment(
                data=Data(
                    set=defaults("sets", "colored_digits") | {"image_size": 8},
                    views={"image": defaults("views", "image")},
                ),
                teacher=Role({"name": "resnet", "preset": "mini"}, SLOW, TRAIN),
                student=Role({"name": "resnet", "preset": "tiny"}, FAST, TRAIN),
                distill=({"name": "logits", "temperature": 4.0},),
                mix=Mix(task_weight=0.1, kd_weight=0.9),
                compare=Compare(first="stem|stage.*/out", second="stem|stage.*/out"),
            ),
            axes={
                "method": (
                    {"label": "erm", "debias": {"name": "erm"}},
                    {"label": "group_dro", "debias": GROUP_DRO},
                    {
                        "label": "group_dro, distillation outside",
                        "debias": GROUP_DRO,
                        "mix.scope": "task",
                    },
                )
            },
        )
    )
