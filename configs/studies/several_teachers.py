"""Coloured digits: two debiased teachers and a biased one. Whose answers does a student follow?

    python launch/study.py --config=configs/studies/several_teachers.py --workdir=runs/teachers

The digits and nets of `quickstart.py`, six seeds. Teachers "debiased" and "twin" are trained by
Group DRO and differ in their seed, "biased" by plain training. The student is told no attributes:
its robustness can come from its teachers alone. Of the ways to weigh them, `ae_kd` goes by how
their gradients agree, `agre_kd` (which is told which one is biased) by how they disagree with it,
`dedier` and `dett` by the student's own early mistakes.
"""

from fairkd_jax.config import (
    Data,
    Experiment,
    Mix,
    Optim,
    Role,
    Study,
    Teacher,
    Train,
    as_config_dict,
)
from fairkd_jax.registry import defaults

SLOW, FAST = (
    Optim(learning_rate=rate, weight_decay=2.0, schedule="constant") for rate in (2e-4, 2e-3)
)
TRAIN = Train(steps=200, batch_size=128, select="val_worst_group", eval_every=25)
GROUP_DRO = defaults("debias", "group_dro") | {"step_size": 0.1}
MINI = {"name": "resnet", "preset": "mini"}
HINTON = {"name": "logits", "temperature": 4.0}


def get_config():
    """The study; the mean over teachers, one of them alone, and four ways to weigh them."""
    alone = {"biased": 0.0, "twin": 0.0}
    return as_config_dict(
        Study(
            name="several_teachers",
            seeds=6,
            experiment=Experiment(
                data=Data(
                    set=defaults("sets", "colored_digits") | {"image_size": 8},
                    views={"image": defaults("views", "image")},
                ),
                teachers={
                    "debiased": Teacher(MINI, SLOW, TRAIN, debias=GROUP_DRO),
                    "twin": Teacher(MINI, SLOW, TRAIN, debias=GROUP_DRO, seed=100),
                    "biased": Teacher(MINI, SLOW, TRAIN, debias={"name": "erm"}),
                },
                student=Role({"name": "resnet", "preset": "tiny"}, FAST, TRAIN),
                mix=Mix(task_weight=0.1, kd_weight=0.9),
            ),
            axes={
                "teachers": (
                    {"label": "mean", "distill": HINTON},
                    {"label": "debiased alone", "distill": HINTON, "mix.teachers": alone},
                    {"label": "mean of debiased", "distill": HINTON, "mix.teachers.biased": 0.0},
                    {"label": "ae_kd", "distill": {"name": "ae_kd", "temperature": 4.0}},
                    {"label": "agre_kd", "distill": {"name": "agre_kd", "temperature": 4.0}},
                    {"label": "dedier", "distill": {"name": "dedier"}},
                    {"label": "dett", "distill": {"name": "dett"}},
                )
            },
            headline=("in_domain/test/acc_avg", "in_domain/test/worst_group_accuracy"),
        )
    )
