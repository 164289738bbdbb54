"""Coloured digits: does robustness reach a small student better in several steps than in one?

    python launch/study.py --config=configs/studies/iterative.py --workdir=runs/iterative

A debiased ResNet mini teaches a ResNet tiny, of 42 386 and 4 970 parameters: directly; by way of an
assistant of a size in between (arXiv 1902.03393); by way of one, or of three, born-again
generations of the student (arXiv 1805.04770), each taught by the one before. Last, self-
distillation: the teacher is as small as the student, and so the baseline itself. Plain training
(ERM) and Group DRO, the same method for all nets of a chain; six seeds. The report says of each net
of a chain what it reaches and what is lost from the net that taught it.
"""

from fairkd_jax.config import (
    Compare,
    Data,
    Experiment,
    Mix,
    Optim,
    Role,
    Rung,
    Study,
    Train,
    as_config_dict,
)
from fairkd_jax.registry import defaults

# As in the quickstart, early stopping too: a net soon learns the few images against the shortcut by
# heart, and Group DRO then has nothing left to weigh.
SLOW, FAST = (
    Optim(learning_rate=rate, weight_decay=2.0, schedule="constant") for rate in (2e-4, 2e-3)
)
TRAIN = Train(steps=200, batch_size=128, select="val_worst_group", eval_every=25)
MINI, TINY = ({"name": "resnet", "preset": preset} for preset in ("mini", "tiny"))
# As mini with half its blocks, 19154 parameters; without a preset tables do not call it mini.
BETWEEN = {"name": "resnet", "depths": (1, 1), "widths": (16, 32), "stem_width": 16}
BETWEEN |= {"stem": "plain", "shortcut": "padding"}


def get_config():
    """The study; every value may be overridden: --config.experiment.student.train.steps=300."""
    return as_config_dict(
        Study(
            name="iterative",
            seeds=6,
            experiment=Experiment(
                data=Data(
                    set=defaults("sets", "colored_digits") | {"image_size": 8},
                    views={"image": defaults("views", "image")},
                ),
                teacher=Role(MINI, SLOW, TRAIN),
                student=Role(TINY, FAST, TRAIN),
                distill=({"name": "logits", "temperature": 4.0},),
                mix=Mix(task_weight=0.1, kd_weight=0.9),
                compare=Compare(first="stem|stage.*/out", second="stem|stage.*/out"),
            ),
            axes={
                "method": (
                    {"label": "erm", "debias": {"name": "erm"}},
                    {
                        "label": "group_dro",
                        "debias": defaults("debias", "group_dro") | {"step_size": 0.1},
                    },
                ),
                "chain": (
                    {"label": "direct", "rungs": ()},
                    {"label": "assistant", "rungs": (Rung(BETWEEN),)},
                    {"label": "1 generation", "rungs": (Rung(),)},
                    {"label": "3 generations", "rungs": (Rung(rounds=3),)},
                    {
                        "label": "self-distillation",
                        "rungs": (),
                        "teacher.model": TINY,
                        "teacher.optim": FAST,
                    },
                ),
            },
        )
    )
