"""The smallest study with every stage kind, for tests that run launchers."""

from fairkd_jax.config import Compare, Data, Experiment, Role, Study, Train, as_config_dict


def get_config():
    """Two nets of 5,000 parameters, JTT, a few dozen steps."""
    role = Role(
        {"name": "resnet", "preset": "tiny"},
        train=Train(steps=30, batch_size=32, log_every=5, checkpoint_every=5),
    )
    return as_config_dict(
        Study(
            name="tiny",
            seeds=1,
            experiment=Experiment(
                data=Data(set={"name": "colored_digits", "image_size": 8}),
                teacher=role,
                student=role,
                debias={"name": "jtt", "identify_share": 0.1, "factor": 3.0},
                compare=Compare(first="stem", second="stage.*/out", examples=64),
            ),
        )
    )
