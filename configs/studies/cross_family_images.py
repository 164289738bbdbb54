"""Coloured digits: does Group DRO's robustness pass from a ViT to a ResNet, and back?

    python launch/study.py --config=configs/studies/cross_family_images.py --workdir=runs/xi

Each teacher with a student of its own family and with one of the other; data, optimizers and early
stopping as in `quickstart.py`, images of 16 x 16 pixels.
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
TRAIN = Train(steps=200, batch_size=128, select="val_worst_group", eval_every=25)
BLOCKS = r"stem|embed|(stage\d/)?block\d+/out"


def pair(teacher: str, student: str):
    """A value of the axis: large net of one family, small net of another."""
    return {
        "label": f"{teacher} to {student}",
        "teacher.model": {"name": teacher, "preset": "mini"},
        "student.model": {"name": student, "preset": "tiny"},
    }


def get_config():
    """The study; every value may be overridden: --config.seeds=5."""
    return as_config_dict(
        Study(
            name="cross_family_images",
            seeds=3,
            experiment=Experiment(
                data=Data(
                    set=defaults("sets", "colored_digits") | {"image_size": 16},
                    views={"image": defaults("views", "image")},
                ),
                teacher=Role(optim=SLOW, train=TRAIN),
                student=Role(optim=FAST, train=TRAIN),
                debias=defaults("debias", "group_dro") | {"step_size": 0.1},
                distill=({"name": "logits", "temperature": 4.0},),
                mix=Mix(task_weight=0.1, kd_weight=0.9),
                compare=Compare(first=BLOCKS, second=BLOCKS),
            ),
            axes={
                "pair": tuple(pair(t, s) for t in ("vit", "resnet") for s in ("resnet", "vit")),
            },
        )
    )
