"""Real pairs, SNLI or MNLI: MiniLM with 6 layers into 3, scored where its shortcuts fail.

    python launch/study.py --config=configs/studies/nli_real.py:FOLDER,WEIGHTS --workdir=runs/real
    python launch/study.py --config=configs/studies/nli_real.py:FOLDER,WEIGHTS,mnli --workdir=W
    python launch/study.py --config=configs/studies/nli_real.py:FOLDER,WEIGHTS,losses --workdir=W

FOLDER as for `nli_small.py`, and `nli_cad/test.tsv.gz`, `nli_negation/test.tsv.gz` and, for MNLI,
`nli_mnli/train.tsv.gz`. WEIGHTS holds `model.safetensors`, `config.json` and a tokenizer of a BERT
with 6 layers of width 384, such as sentence-transformers/all-MiniLM-L6-v2. The teacher is that net,
trained on some of the pairs; the student has 3 of its layers, or starts from nothing.

Out of domain: HANS by heuristic and subcase, counterfactual pairs by what was edited (arXiv
1909.12434), pairs with a negation in one sentence or both, and the hard pairs of the test splits,
which a net that sees the hypothesis alone gets wrong (arXiv 1803.02324).

`losses` compares what is told the bias of word overlap instead, in teachers and in BERTs tiny
distilled from them, on SNLI and HANS.
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
OPTIM = Optim(learning_rate=2e-4, schedule="linear", warmup=0.1, weight_decay=0.01)
TRAIN = Train(steps=150, batch_size=32, checkpoint_every=100)
BERT = {"name": "bert", "attention_dropout": 0.0}  # without it, attention is fused
KINDS = ("", "snli", "mnli", "losses")
OVERLAP = {"bias": {"name": "overlap"}}
LOSSES = (
    {"name": "erm"},
    {"name": "bias_reweight"} | OVERLAP,
    {"name": "poe"} | OVERLAP,
    {"name": "learned_mixin"} | OVERLAP,
    {
        "label": "learned_mixin, entropy",
        "debias": {"name": "learned_mixin", "penalty": 0.03} | OVERLAP,
    },
    {"name": "dfl"} | OVERLAP,
    {"name": "rubi"} | OVERLAP,
    {"name": "confidence_regularisation"} | OVERLAP,
)
WEAK = BERT | {"preset": "tiny"}
BLOCKS = r"block\d\d/out"
RAW = {"test": {"text_form": "raw_no_final_period"}}  # rows of MNLI as all others are written


def get_config(folder_and_weights: str = ""):
    """The study; behind the config's name and a colon stand two folders, with a comma between."""
    folder, weights, kind = ([*folder_and_weights.split(","), "", ""])[:3]
    if not weights or kind not in KINDS:
        raise ValueError(
            f"nli_real.py:{folder_and_weights}: expected FOLDER,WEIGHTS or FOLDER,WEIGHTS,KIND, "
            f"a kind one of {', '.join(filter(None, KINDS))}"
        )
    losses = kind == "losses"

    def files(**options):
        return {"name": "nli_files", "folder": folder, "attribute": "overlap"} | options

    snli = files(
        train="nli_snli/train.tsv.gz",
        test="nli_snli/test.tsv.gz",
        subpopulations={"test": "hard"},
        limit=8_000,
    )
    mnli = files(
        train="nli_mnli/train.tsv.gz",
        test="nli_mnli/dev_matched.tsv.gz",
        where=RAW,
        subpopulations={"test": "hard"},
        limit=8_000,
    )
    here, there = (mnli, snli) if kind == "mnli" else (snli, mnli)
    elsewhere = {
        "other_corpus": there | {"limit": 1_000},
        "cad": files(test="nli_cad/test.tsv.gz", subpopulations={"test": "origin"}),
        "negation": files(test="nli_negation/test.tsv.gz", subpopulations={"test": "source"}),
    }
    hans = files(
        hans="hans_regenerated/eval.tsv.gz",
        label_names=("entailment", "non-entailment"),
        attribute="heuristic",
        attribute_names=HEURISTICS,
        suggests={h: ("entailment",) for h in HEURISTICS},
        subpopulations={"hans": "subcase"},
        limit=1_500,
    )
    return as_config_dict(
        Study(
            name="nli_real" if kind == "snli" else f"nli_real_{kind}".removesuffix("_"),
            seeds=3,
            headline=(
                "in_domain/test/acc_avg",
                "hans/hans/acc_conflicting",
                *(() if losses else ("cad/test/acc_avg", "negation/test/acc_avg")),
            ),
            experiment=Experiment(
                data=Data(
                    set=here,
                    views={"wordpiece": {"name": "wordpiece", "length": 64, "tokenizer": weights}},
                    padding="bucket",
                ),
                teacher=Role(BERT | {"pretrained": weights, "head": "fresh"}, OPTIM, TRAIN),
                student=Role(WEAK if losses else BERT | {"preset": "minilm_l3"}, OPTIM, TRAIN),
                distill=({"name": "logits", "temperature": 2.0},),
                mix=Mix(task_weight=0.5, kd_weight=0.5),
                transfer=None if losses else Transfer(layers="every"),
                evaluate={
                    "in_domain": Evaluation(splits=("test",)),
                    **{
                        name: Evaluation(set=files_of, splits=("test",))
                        for name, files_of in ({} if losses else elsewhere).items()
                    },
                    "hans": Evaluation(set=hans, splits=("hans",)),
                },
                compare=Compare() if losses else Compare(first=BLOCKS, second=BLOCKS),
            ),
            axes={"debias": LOSSES}
            if losses
            else {
                "debias": (
                    {"name": "erm"},
                    {"name": "poe", "bias": {"name": "weak_learner", "model": WEAK}},
                ),
                "start": (
                    {"label": "random", "transfer": None},
                    {"label": "every 2nd layer", "transfer.layers": "every"},
                ),
            },
        )
    )
