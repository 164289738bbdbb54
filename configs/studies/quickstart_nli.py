"""Sentence pairs from templates: a net that follows word overlap, debiased, then distilled.

    python launch/study.py --config=configs/studies/quickstart_nli.py --workdir=runs/quickstart_nli

Nothing to download: the pairs are generated. Word overlap goes with entailment in 95 % of the
training pairs; `hans` scores each of the three heuristics of arXiv 1902.01007 by itself.
"""

import dataclasses

from fairkd_jax.config import (
    Compare,
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


def bert(preset: str):
    """Without attention dropout, attention is fused."""
    return {"name": "bert", "preset": preset, "attention_dropout": 0.0}


def get_config():
    """The study; every value may be overridden: --config.experiment.student.train.steps=300."""
    return as_config_dict(
        Study(
            name="quickstart_nli",
            seeds=3,
            headline=("in_domain/test/worst_group_accuracy", "in_domain/hans/acc_conflicting"),
            experiment=Experiment(
                data=Data(
                    set=defaults("sets", "template_nli"),
                    views={"wordpiece": {"name": "wordpiece", "length": 24, "vocab_size": 500}},
                ),
                teacher=Role(bert("mini"), dataclasses.replace(OPTIM, learning_rate=5e-4), TRAIN),
                student=Role(bert("tiny"), OPTIM, TRAIN),
                distill=({"name": "logits", "temperature": 2.0},),
                mix=Mix(task_weight=0.5, kd_weight=0.5),
                evaluate={"in_domain": Evaluation(splits=("test", "hans"))},
                compare=Compare(first=r"block\d\d/out", second=r"block\d\d/out"),
            ),
            axes={
                "debias": (
                    {"name": "erm"},
                    {"name": "group_dro", "step_size": 0.05},
                ),
            },
        )
    )
