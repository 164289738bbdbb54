"""Every debiasing method that images allow, on coloured digits, and what distillation keeps of it.

    python launch/tune.py --config=configs/studies/methods_images.py --workdir=runs/methods
    python launch/study.py --config=configs/studies/methods_images.py --workdir=runs/methods \\
        --tuned=runs/methods/tuned/methods_images.json

The digits of `quickstart.py`, and its nets. Of each method a teacher, the student alone and the
student distilled from it, six seeds. A teacher's learning rate, its weight decay and its method's
own options are chosen by worst group on the validation split (`configs/tuned` holds what was chosen
for the README); the students' rates are those of `quickstart.py`, the options of their method those
of the teacher. Left out are the methods that need two sentences or attention.
"""

from fairkd_jax.config import Data, Experiment, Mix, Optim, Role, Study, Train, as_config_dict
from fairkd_jax.registry import defaults

SLOW, FAST = (
    Optim(learning_rate=rate, weight_decay=2.0, schedule="constant") for rate in (2e-4, 2e-3)
)
TRAIN = Train(steps=200, batch_size=128, select="val_worst_group", eval_every=25)
SAMPLING = ("erm", "resample", "subsample", "reweight", "class_balanced", "focal", "ldam")
SAMPLING += ("logit_adjustment", "cvar_dro", "group_dro")
UNTOLD = ("jtt", "lff", "gce", "eiil", "spare", "pde", "afr", "dfr", "crt", "self")
BIASED = ("bias_reweight", "poe", "learned_mixin", "dfl", "rubi", "confidence_regularisation")
INSIDE = ("kernel_whitening", "marg_ctrl", "spectral_decoupling", "cnc", "mixup", "lisa", "pgi")
INVARIANT = ("irm", "vrex", "coral", "mmd", "dann", "fairflow")
METHODS = SAMPLING + UNTOLD + BIASED + INSIDE + INVARIANT
OPTIONS = {  # what the setting asks for and no default knows
    "group_dro": {"step_size": 0.1},
    "logit_adjustment": {"by": "group"},
    "crt": {"by": "group"},
    "irm": {"anneal_steps": 100},
    "vrex": {"anneal_steps": 100},
}


def get_config(names: str = ""):
    """The study; behind its name and a colon stand methods, with commas between: these alone."""
    asked = names.split(",") if names else METHODS
    return as_config_dict(
        Study(
            name="methods_images",
            seeds=6,
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
                "debias": tuple(defaults("debias", name) | OPTIONS.get(name, {}) for name in asked)
            },
            headline=("in_domain/test/acc_avg", "in_domain/test/worst_group_accuracy"),
            search={
                "teacher.optim.learning_rate": (1e-4, 2e-4, 5e-4, 1e-3),
                "teacher.optim.weight_decay": (0.2, 2.0),
            },
        )
    )
