"""Coloured digits: what each augmentation does to the gap, at equal steps.

    python launch/study.py --config=configs/studies/augmentation_images.py --workdir=runs/images

Plain training on images whose colour agrees with the label on 95 %. A quarter of each batch is
extra, or all of it may be changed. `attribute_swap` and `conflicting` know the colours of the
training images, the others do not.
"""

from fairkd_jax.config import (
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


def one(name: str, **options):
    """A value of the axis: one augmentation, by its name."""
    return {"label": name, "data.augment": {name: {"name": name, **options}}}


def get_config():
    """The study; every value may be overridden: --config.experiment.student.train.steps=300."""
    conflicting = {"conflicting": {"name": "conflicting"}}
    return as_config_dict(
        Study(
            name="augmentation_images",
            seeds=3,
            experiment=Experiment(
                data=Data(
                    set=defaults("sets", "colored_digits") | {"image_size": 8},
                    views={"image": defaults("views", "image")},
                ),
                teacher=Role({"name": "resnet", "preset": "mini"}, SLOW, TRAIN),
                student=Role({"name": "resnet", "preset": "tiny"}, FAST, TRAIN),
                distill=({"name": "logits", "temperature": 4.0},),
                mix=Mix(task_weight=0.1, kd_weight=0.9),
            ),
            axes={
                "augment": (
                    {"label": "none", "data.augment": {}},
                    {"label": "crop", "data.views.image.crop": 1},
                    one("colour_jitter"),
                    one("mixup"),
                    one("cutmix"),
                    one("attribute_swap"),
                    one("conflicting"),
                    {
                        "label": "conflicting + crop",
                        "data.augment": conflicting,
                        "data.views.image.crop": 1,
                    },
                )
            },
        )
    )
