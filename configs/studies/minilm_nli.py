"""MiniLM with 6 layers into 3: does it help to start from the teacher, and what of its shortcuts?

    python launch/study.py --config=configs/studies/minilm_nli.py:FOLDER,WEIGHTS --workdir=runs/lm

FOLDER as for `nli_small.py`. WEIGHTS holds `model.safetensors`, `config.json` and a tokenizer of a
BERT with 6 layers of width 384, such as sentence-transformers/all-MiniLM-L6-v2. The teacher is
that net, trained on some pairs of SNLI; the student has 3 of its layers, or starts from nothing.

A quarter of an hour a seed on 2 CPU cores, beside other work.
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
    Transfer,
    as_config_dict,
)

HEURISTICS = ("lexical_overlap", "subsequence", "constituent")
TRAIN = Train(steps=150, batch_size=32, checkpoint_every=100)


def optim(learning_rate: float) -> Optim:
    """A linear schedule with this peak."""
    return Optim(learning_rate=learning_rate, schedule="linear", warmup=0.1, weight_decay=0.01)


def get_config(folder_and_weights: str = ""):
    """The study; behind the config's name and a colon stand two folders, with a comma between."""
    folder, _, weights = folder_and_weights.partition(",")
    if not weights:
        raise ValueError(f"minilm_nli.py:FOLDER,WEIGHTS needs both; got {folder_and_weights!r}")
    snli = {
        "name": "nli_files",
        "folder": folder,
        "train": "nli_snli/train.tsv.gz",
        "test": "nli_snli/test.tsv.gz",
        "part": {"test": "1/2"},
        "limit": 8_000,
    }
    hans = {
        "name": "nli_files",
        "folder": folder,
        "hans": "hans_regenerated/eval.tsv.gz",
        "label_names": ("entailment", "non-entailment"),
        "attribute": "heuristic",
        "attribute_names": HEURISTICS,
        "suggests": {h: ("entailment",) for h in HEURISTICS},
        "subpopulations": {"hans": "subcase"},
        "limit": 3_000,
    }
    # Without attention dropout, attention is fused.
    bert = {"name": "bert", "attention_dropout": 0.0}
    return as_config_dict(
        Study(
            name="minilm_nli",
            seeds=1,
            headline=("in_domain/test/acc_avg", "hans/hans/acc_conflicting"),
            experiment=Experiment(
                data=Data(
                    set=snli,
                    views={"wordpiece": {"name": "wordpiece", "length": 48, "tokenizer": weights}},
                ),
                teacher=Role(bert | {"pretrained": weights, "head": "fresh"}, optim(2e-4), TRAIN),
                student=Role(bert | {"preset": "minilm_l3"}, optim(2e-4), TRAIN),
                distill=({"name": "logits", "temperature": 2.0},),
                mix=Mix(task_weight=0.5, kd_weight=0.5),
                transfer=Transfer(),
                evaluate={
                    "in_domain": Evaluation(splits=("test",)),
                    "hans": Evaluation(set=hans, splits=("hans",)),
                },
                compare=Compare(first=r"block\d\d/out", second=r"block\d\d/out"),
            ),
            axes={
                "start": (
                    {"label": "random", "transfer": None},
                    {"label": "every 2nd layer", "transfer.layers": "every"},
                ),
            },
        )
    )
