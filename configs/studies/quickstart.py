"""Coloured digits: is Group DRO's robustness still there in the student distilled from its teacher?

    python launch/study.py --config=configs/studies/quickstart.py --workdir=runs/quickstart

    python launch/study.py --config=configs/studies/quickstart.py:inside --workdir=runs/quickstart

Real handwriting; colour agrees with the label on 95 % of the training images and on half of the
test images. Two methods, two places for the distillation loss (inside or outside the debiasing),
nine seeds. `inside` asks the same nets all that can be asked of their inside, to see where teacher
and student part and whether that tells of what was lost; nothing is trained anew.
"""

import dataclasses

from fairkd_jax.config import (
    Attention,
    Circuit,
    Compare,
    Data,
    Experiment,
    Mix,
    Optim,
    Probe,
    Role,
    Stitch,
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
LAYERS = "stem|stage.*/out"
INSIDE = {
    "compare": Compare(
        first=LAYERS,
        second=LAYERS,
        measures=({"name": "procrustes"}, {"name": "rbf_cka"}, {"name": "mutual_knn"}),
        other_seed=True,
    ),
    "attention": Attention(first=LAYERS, second=LAYERS, batch_size=256),
    "probe": Probe(taps=f"{LAYERS}|features"),
    "stitch": Stitch(first=LAYERS, second=LAYERS, batch_size=256),
    "circuit": Circuit(
        scores={"exact": {"name": "exact"}, "attribution": {"name": "attribution"}},
        sizes=(0.25, 0.5),
        examples=256,
        batch_size=128,
    ),
}


def get_config(kind: str = ""):
    """The study; every value may be overridden: --config.experiment.student.train.steps=300."""
    if kind not in ("", "inside"):
        raise ValueError(f"quickstart.py:{kind}: expected nothing behind the name, or inside")
    study = _study()
    if kind:
        asked = dataclasses.replace(study.experiment, **INSIDE)
        study = dataclasses.replace(study, name="quickstart_inside", experiment=asked)
    return as_config_dict(study)


def _study() -> Study:
    return Study(
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
            compare=Compare(first=LAYERS, second=LAYERS),
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
