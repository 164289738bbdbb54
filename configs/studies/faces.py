"""Faces: does Group DRO's robustness survive distillation where age speaks for gender? ResNets.

    fairkd-data --set=utkface --source=UTKFace --data_dir=FOLDER
    python launch/study.py --config=configs/studies/faces.py:FOLDER --workdir=runs/faces
    python launch/study.py --config=configs/studies/faces.py:FOLDER,natural --workdir=runs/faces
    python launch/study.py --config=configs/studies/faces.py:FOLDER,methods --workdir=runs/faces

In training nine of ten men are under 20 and nine of ten women are not, chosen from the faces that
are there; validation and test are as they are. `natural` trains on all faces as they are: there age
says next to nothing of gender. `--config.experiment.data.set.attribute=white` takes another
shortcut. Teacher ResNet-32, student ResNet-20, 32 x 32 pixels, from scratch. `methods` compares
eleven methods instead, at 16 x 16 pixels in the nets of `quickstart.py`, with options as in papers.
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
SMALL = Train(steps=300, batch_size=64, select="val_worst_group", eval_every=50)
METHODS = (
    "erm",
    "resample",
    "subsample",
    "reweight",
    "group_dro",
    "jtt",
    "lff",
    "dfr",
    "afr",
    "cnc",
)
METHODS += ("lisa", "spectral_decoupling")
OPTIONS = {"group_dro": {"step_size": 0.1}, "jtt": {"factor": 4.0}}
KINDS = ("", "natural", "methods")
BLOCKS = r"stem|stage\d/block\d+/out"


def get_config(faces: str = ""):
    """The study on the prepared set in a folder; behind it and a comma, which of the three."""
    folder, _, kind = faces.partition(",")
    if kind not in KINDS:
        raise ValueError(f"faces.py:{faces}: expected FOLDER, FOLDER,natural or FOLDER,methods")
    methods, compare, size = ("erm", "group_dro"), Compare(first=BLOCKS, second=BLOCKS), 32
    teacher = Role({"name": "resnet", "preset": "cifar32"}, OPTIM, TRAIN)
    student = Role({"name": "resnet", "preset": "cifar20"}, OPTIM, TRAIN)
    if kind == "methods":
        methods, compare, size = METHODS, Compare(), 16
        teacher = Role({"name": "resnet", "preset": "mini"}, OPTIM, SMALL)
        student = Role({"name": "resnet", "preset": "tiny"}, OPTIM, SMALL)
    return as_config_dict(
        Study(
            name=f"faces_{kind}".removesuffix("_"),
            seeds=3,
            experiment=Experiment(
                data=Data(
                    set=defaults("sets", "utkface") | {"data_dir": folder, "size": size},
                    views={"image": defaults("views", "image") | {"mean": (), "std": ()}},
                    correlation=None if kind == "natural" else CORRELATION,
                    strength_seed=0,  # the same faces for all seeds
                ),
                teacher=teacher,
                student=student,
                distill=({"name": "logits", "temperature": 4.0},),
                mix=Mix(task_weight=0.1, kd_weight=0.9),
                compare=compare,
            ),
            headline=("in_domain/test/acc_avg", "in_domain/test/worst_group_accuracy"),
            axes={
                "debias": tuple(
                    defaults("debias", name) | OPTIONS.get(name, {}) for name in methods
                )
            },
        )
    )
