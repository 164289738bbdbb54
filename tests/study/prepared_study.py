"""The smallest study on a prepared set: `prepared_study.py:SET,DATA_DIR`."""

from fairkd_jax.config import Data, Evaluation, Experiment, Role, Study, Train, as_config_dict

BERT = {"name": "bert", "depth": 1, "width": 8, "heads": 2, "mlp_width": 16}
RESNET = {"name": "resnet", "preset": "tiny"}
WORDS = {"wordpiece": {"name": "wordpiece", "length": 40, "vocab_size": 120}}
NETS = {"mnist": (RESNET, {"image": {"name": "image"}}), "mnli": (BERT, WORDS)}
SPLITS = {"mnist": "test", "mnli": "matched"}


def get_config(place: str):
    """Nets of a few thousand parameters, some steps, one seed; stages that infer and refit."""
    name, folder = place.split(",")
    net, views = NETS[name]
    role = Role(net, train=Train(steps=8, batch_size=16, log_every=2, checkpoint_every=4))
    return as_config_dict(
        Study(
            name="prepared",
            seeds=1,
            experiment=Experiment(
                data=Data(set={"name": name, "data_dir": folder}, views=views),
                teacher=role,
                student=role,
                debias={"name": "afr", "head_steps": 20},
                evaluate={"in_domain": Evaluation(splits=(SPLITS[name],))},
            ),
            headline=(f"in_domain/{SPLITS[name]}/acc_avg",),
        )
    )
