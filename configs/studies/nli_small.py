"""Real sentence pairs: does a product of experts' robustness survive distillation? SNLI -> HANS.

    python launch/study.py --config=configs/studies/nli_small.py:FOLDER --workdir=runs/nli_small

FOLDER holds `nli_snli/{train,dev,test}.tsv.gz`, `nli_mnli/dev_matched.tsv.gz` and
`hans_regenerated/eval.tsv.gz`: tab-separated, a first line of column names, among them premise,
hypothesis, label (a name) and, for HANS, heuristic. Other files: see `data/sets/nli_files.py`.

BERT from scratch on 8,000 pairs, so accuracies are far below those of pretrained nets.
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

HEURISTICS = ("lexical_overlap", "subsequence", "constituent")
OPTIM = Optim(learning_rate=1e-3, schedule="linear", warmup=0.1, weight_decay=0.01)
TRAIN = Train(steps=300, batch_size=32, checkpoint_every=100)


def files(folder: str, **options):
    """A set of files in the folder."""
    return {"name": "nli_files", "folder": folder} | options


def bert(preset: str):
    """Without attention dropout, attention is fused."""
    return {"name": "bert", "preset": preset, "attention_dropout": 0.0}


def get_config(folder: str = ""):
    """The study on the files of a folder, which follows the config's name and a colon."""
    snli = files(
        folder,
        train="nli_snli/train.tsv.gz",
        val="nli_snli/dev.tsv.gz",
        test="nli_snli/test.tsv.gz",
        part={"test": "1/2"},
        limit=8_000,
    )
    hans = files(
        folder,
        hans="hans_regenerated/eval.tsv.gz",
        label_names=("entailment", "non-entailment"),
        attribute="heuristic",
        attribute_names=HEURISTICS,
        suggests={h: ("entailment",) for h in HEURISTICS},
        subpopulations={"hans": "subcase"},
        limit=3_000,
    )
    mnli = files(
        folder,
        test="nli_mnli/dev_matched.tsv.gz",
        where={"test": {"text_form": "raw_no_final_period"}},
    )
    return as_config_dict(
        Study(
            name="nli_small",
            seeds=3,
            headline=(
                "in_domain/test/acc_avg",
                "hans/hans/acc_conflicting",
                "hans/hans/gap_aligned",
            ),
            experiment=Experiment(
                data=Data(
                    set=snli,
                    views={"wordpiece": {"name": "wordpiece", "length": 40, "vocab_size": 4000}},
                ),
                teacher=Role(bert("mini"), dataclasses.replace(OPTIM, learning_rate=5e-4), TRAIN),
                student=Role(bert("tiny"), OPTIM, TRAIN),
                distill=({"name": "logits", "temperature": 2.0},),
                mix=Mix(task_weight=0.5, kd_weight=0.5),
                evaluate={
                    "in_domain": Evaluation(splits=("test",)),
                    "mnli": Evaluation(set=mnli, splits=("test",)),
                    "hans": Evaluation(set=hans, splits=("hans",)),
                },
                compare=Compare(first=r"block\d\d/out", second=r"block\d\d/out"),
            ),
            axes={
                "debias": (
                    {"name": "erm"},
                    {"name": "poe", "bias": {"name": "weak_learner", "model": bert("tiny")}},
                ),
            },
        )
    )
