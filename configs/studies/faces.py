"""Faces: does Group DRO's robustness survive distillation where age speaks for gender? ResNets.

    fairkd-data --set=utkface --source=UTKFace --data_dir=FOLDER
    python launch/study.py --config=configs/studies/faces.py:FOLDER --workdir=runs/faces
    python launch/study.py --config=configs/studies/faces.py:FOLDER,natural --workdir=runs/faces

In training nine of ten men are under 20 and nine of ten women are not, chosen from the faces that
are there; validation and test are as they are. `natural` trains on all faces as they are: there age
says next to nothing of gender. `--config.experiment.data.set.attribute=white` takes another
shortcut. Teacher ResNet-32, student ResNet-20, 32 x 32 pixels, from scratch.
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

OPTIM = Optim(learning_rate=2e-3, weight_decay=0.05, schedule="cosine", warmup=0.1)
TRAIN = Train(steps=400, batch_size=64, select="val_worst_group", eval_every=100)
CORRELATION = 0.9
BLOCKS = r"stem|stage\d/block\d+/out"


def get_config(faces: str = ""):
    """The study on the prepared set in a folder; ",natural" behind it: as correlated as it is."""
    folder, _, kind = faces.partition(",")
    if kind not in ("", "natural"):
        raise ValueError(f"faces.py:{faces}: expected FOLDER or FOLDER,natural")
    return as_config_dict(
        Study(
            name="faces_natural" if kind else "faces",
            seeds=3,
            experiment=Experiment(
                data=Data(
                    set=defaults("sets", "utkface") | {"data_dir": folder, "size": 32},
                    views={"image": defaults("views", "image") | {"mean": (), "std": ()}},
                    correlation=None if kind else CORRELATION,
                    strength_seed=0,  # the same faces for all seeds
                ),
                teacher=Role({"name": "resnet", "preset": "cifar32"}, OPTIM, TRAIN),
                student=Role({"name": "resnet", "preset": "cifar20"}, OPTIM, TRAIN),
                distill=({"name": "logits", "temperature": 4.0},),
                mix=Mix(task_weight=0.1, kd_weight=0.9),
                compare=Compare(first=BLOCKS, second=BLOCKS),
            ),
            axes={
                "debias": (
                    {"name": "erm"},
                    defaults("debias", "group_dro") | {"step_size": 0.1},
                ),
            },
        )
    )
