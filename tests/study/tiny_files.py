"""The smallest study on files of the user, behind the colon: FOLDER with train.tsv and test.tsv."""

from fairkd_jax.config import Data, Experiment, Role, Study, Train, as_config_dict


def get_config(folder: str):
    """Two nets of one layer, four steps, two axis values."""
    role = Role(
        {"name": "bert", "preset": "tiny", "depth": 1, "width": 16},
        train=Train(steps=4, batch_size=8, log_every=2, checkpoint_every=2),
    )
    pairs = {"name": "nli_files", "folder": folder, "train": "train.tsv", "test": "test.tsv"}
    words = {"name": "wordpiece", "length": 16, "vocab_size": 80}
    return as_config_dict(
        Study(
            name="files",
            seeds=1,
            axes={"debias": ({"name": "erm"}, {"name": "reweight"})},
            experiment=Experiment(
                data=Data(set=pairs, views={"wordpiece": words}), teacher=role, student=role
            ),
        )
    )
