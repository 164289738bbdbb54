"""Real sentence pairs: teacher and student of two families, each with its own tokens.

    python launch/study.py --config=configs/studies/cross_family_text.py:FOLDER --workdir=runs/xt

BERT reads word pieces, T5 the pieces of a unigram model; both are trained on the same pairs, from
scratch. FOLDER as for `nli_small.py`.
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

SLOW, FAST = (
    Optim(learning_rate=rate, schedule="linear", warmup=0.1, weight_decay=0.01)
    for rate in (5e-4, 1e-3)
)
TRAIN = Train(steps=300, batch_size=32, checkpoint_every=100)
VIEW = {"length": 40, "vocab_size": 4000}
PROMPT = "snli hypothesis: {hypothesis} premise: {premise}"  # after arXiv 1910.10683, appendix D
BLOCKS = r"((enc|dec)/)?block\d\d/out"


def pair(teacher: str, student: str):
    """A value of the axis: large net of one family, small net of another."""
    return {
        "label": f"{teacher} to {student}",
        "teacher.model": {"name": teacher, "preset": "mini"},
        "student.model": {"name": student, "preset": "tiny"},
    }


def get_config(folder: str = ""):
    """The study on the files of a folder, which follows the config's name and a colon."""
    snli = {
        "name": "nli_files",
        "folder": folder,
        "train": "nli_snli/train.tsv.gz",
        "test": "nli_snli/test.tsv.gz",
        "limit": 8_000,
    }
    return as_config_dict(
        Study(
            name="cross_family_text",
            seeds=1,
            headline=("in_domain/test/acc_avg", "in_domain/test/worst_group_accuracy"),
            experiment=Experiment(
                data=Data(
                    set=snli,
                    views={
                        "wordpiece": {"name": "wordpiece"} | VIEW,
                        "unigram": {"name": "unigram", "prompt": PROMPT} | VIEW,
                    },
                ),
                teacher=Role(optim=SLOW, train=TRAIN),
                student=Role(optim=FAST, train=TRAIN),
                distill=({"name": "logits", "temperature": 2.0},),
                mix=Mix(task_weight=0.5, kd_weight=0.5),
                evaluate={"in_domain": Evaluation(splits=("test",))},
                compare=Compare(first=BLOCKS, second=BLOCKS),
            ),
            axes={"pair": (pair("bert", "t5"), pair("t5", "bert"))},
        )
    )
