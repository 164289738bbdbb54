"""The smallest study of which every plugin is from outside."""

from fairkd_jax.config import Compare, Data, Experiment, Role, Study, Train, as_config_dict


def get_config():
    """Three nets of one hidden layer, a dozen steps."""
    role = Role(
        {"name": "my_project.nets.mlp", "preset": "small"},
        train=Train(steps=12, batch_size=16, log_every=4, checkpoint_every=4),
    )
    return as_config_dict(
        Study(
            name="outside",
            seeds=1,
            experiment=Experiment(
                data=Data(
                    set={"name": "my_project.data.spots"},
                    views={"grey": {"name": "my_project.data.grey"}},
                    augment={"mirrored": {"name": "my_project.data.mirrored"}},
                ),
                teacher=role,
                student=role,
                debias={"name": "my_project.methods.mine", "strength": 0.2},
                distill=({"name": "my_project.methods.closer"},),
                compare=Compare(first="block00/out", second="features", examples=16),
            ),
        )
    )
