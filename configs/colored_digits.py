"""One experiment on coloured digits: a Group DRO teacher, its baseline and its distilled student.

    python launch/train.py --config=configs/colored_digits.py --workdir=runs/one
    python launch/train.py --config=configs/colored_digits.py --workdir=runs/one --role=baseline

Expect a worst-group accuracy near .6 for teacher and baseline, in some ten seconds each.
"""

from fairkd_jax.config import Data, Experiment, Mix, Optim, Role, Train, as_config_dict
from fairkd_jax.registry import defaults


def get_config():
    """The experiment; every value may be overridden: --config.debias.step_size=0.5."""
    train = Train(steps=200, batch_size=128, select="val_worst_group", eval_every=25)
    slow, fast = (
        Optim(learning_rate=rate, weight_decay=2.0, schedule="constant") for rate in (2e-4, 2e-3)
    )
    return as_config_dict(
        Experiment(
            data=Data(set=defaults("sets", "colored_digits") | {"image_size": 8}),
            teacher=Role({"name": "resnet", "preset": "mini"}, slow, train),
            student=Role({"name": "resnet", "preset": "tiny"}, fast, train),
            debias=defaults("debias", "group_dro") | {"step_size": 0.1},
            distill=(defaults("distill", "logits"),),
            mix=Mix(task_weight=0.1, kd_weight=0.9),
        )
    )
