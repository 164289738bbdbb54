"""Sentence pairs from templates: what each augmentation does to the gap, at equal steps.

    python launch/study.py --config=configs/studies/augmentation_nli.py --workdir=runs/augmentation

Nothing to download. A quarter of each batch is extra, or words are left out of it. Augmentations
whose examples have no label take part in distillation alone: teacher and baseline are as without.
The templates are those that `hans` is made of, so what they reach is the best case, no surprise.
"""

from fairkd_jax.config import (
    Data,
    Evaluation,
    Experiment,
    Mix,
    Optim,
    Role,
    Study,
    Train,
    as_config_dict,
)
from fairkd_jax.registry import defaults

OPTIM = Optim(learning_rate=1e-3, schedule="linear", warmup=0.1, weight_decay=0.01)
TRAIN = Train(steps=200, batch_size=32, checkpoint_every=100)


BERT = {"name": "bert", "preset": "tiny", "attention_dropout": 0.0}  # so attention is fused


def one(name: str, **options):
    """A value of the axis: one augmentation, by its name."""
    return {"label": name, "data.augment": {name: {"name": name, **options}}}


def get_config():
    """The study; every value may be overridden: --config.experiment.student.train.steps=300."""
    return as_config_dict(
        Study(
            name="augmentation_nli",
            seeds=3,
            headline=("in_domain/test/worst_group_accuracy", "in_domain/hans/acc_conflicting"),
            experiment=Experiment(
                data=Data(
                    set=defaults("sets", "template_nli"),
                    views={"wordpiece": {"name": "wordpiece", "length": 24, "vocab_size": 500}},
                ),
                teacher=Role(BERT, OPTIM, TRAIN),
                student=Role(BERT | {"depth": 1}, OPTIM, TRAIN),
                distill=({"name": "logits", "temperature": 2.0},),
                mix=Mix(task_weight=0.5, kd_weight=0.5),
                evaluate={"in_domain": Evaluation(splits=("test", "hans"))},
            ),
            axes={
                "augment": (
                    {"label": "none", "data.augment": {}},
                    one("templates"),
                    one("subject_object_swap"),
                    one("premise_shuffle", roles=("distilled",)),
                    one("other_premise", roles=("distilled",)),
                    one("word_dropout"),
                )
            },
        )
    )
