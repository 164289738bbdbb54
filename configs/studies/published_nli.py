"""SNLI, MNLI and HANS as their authors published them: what of HANS survives distillation?

    python launch/study.py --config=configs/studies/published_nli.py:FOLDER --workdir=runs/nli

FOLDER holds `snli_1.0/` and `multinli_1.0/` (their archives, unpacked) and `hans/` with
`heuristics_evaluation_set.txt`. Pairs without a gold label ("-") are left out, and counted. The
.jsonl files beside them have the same columns; GLUE's MNLI too, as `dev_matched.tsv`.

BERT from scratch on 8,000 pairs, as in `nli_small.py`: for accuracies like those of papers, give
`pretrained` weights, all pairs (`limit` 0) and more steps.
"""

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
TRAIN = Train(steps=300, batch_size=32, checkpoint_every=100)


def files(folder: str, **options):
    """A set of published files: all three name their columns alike."""
    columns = {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}
    skipped = {"skip_labels": ("-",), "skip_empty": True}
    return {"name": "nli_files", "folder": folder} | columns | skipped | options


def role(preset: str, learning_rate: float) -> Role:
    """A BERT with its training; without attention dropout, attention is fused."""
    optim = Optim(learning_rate=learning_rate, schedule="linear", warmup=0.1, weight_decay=0.01)
    return Role({"name": "bert", "preset": preset, "attention_dropout": 0.0}, optim, TRAIN)


def get_config(published: str = ""):
    """The study on the files of a folder, which follows the config's name and a colon."""
    snli = files(
        published,
        train="snli_1.0/snli_1.0_train.txt",
        val="snli_1.0/snli_1.0_dev.txt",
        test="snli_1.0/snli_1.0_test.txt",
        limit=8_000,
    )
    mnli = files(published, test="multinli_1.0/multinli_1.0_dev_matched.txt")
    hans = files(
        published,
        hans="hans/heuristics_evaluation_set.txt",
        label_names=("entailment", "non-entailment"),
        attribute="heuristic",
        attribute_names=HEURISTICS,
        suggests={h: ("entailment",) for h in HEURISTICS},
        subpopulations={"hans": "subcase"},
        limit=3_000,
    )
    return as_config_dict(
        Study(
            name="published_nli",
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
                teacher=role("mini", 5e-4),
                student=role("tiny", 1e-3),
                distill=({"name": "logits", "temperature": 2.0},),
                mix=Mix(task_weight=0.5, kd_weight=0.5),
                evaluate={
                    "in_domain": Evaluation(splits=("test",)),
                    "mnli": Evaluation(set=mnli, splits=("test",)),
                    "hans": Evaluation(set=hans, splits=("hans",)),
                },
                compare=Compare(first=r"block\d\d/out", second=r"block\d\d/out"),
            ),
            axes={"debias": ({"name": "erm"}, {"name": "group_dro", "step_size": 0.01})},
        )
    )
