"""A tiny study with a chain of two rungs, for tests that run launchers."""

from fairkd_jax.config import Compare, Data, Experiment, Role, Study, Train, as_config_dict


def get_config():
    """An assistant with a multi-stage method of its own, then a generation; or none of them."""
    role = Role(
        {"name": "resnet", "preset": "tiny"},
        train=Train(steps=30, batch_size=32, log_every=5, checkpoint_every=5),
    )
    assistant = {
        "model": {"name": "resnet", "preset": "tiny", "depths": (1, 2)},
        "debias": {"name": "jtt", "identify_share": 0.5},
        "train": {"steps": 30, "batch_size": 32},
    }
    return as_config_dict(
        Study(
            name="rungs",
            seeds=1,
            experiment=Experiment(
                data=Data(set={"name": "colored_digits", "image_size": 8}),
                teacher=role,
                student=role,
                compare=Compare(first="stem", second="stem", examples=64),
            ),
            axes={
                "chain": (
                    {"label": "direct", "rungs": ()},
                    {"label": "two rungs", "rungs": (assistant, {})},
                )
            },
        )
    )
