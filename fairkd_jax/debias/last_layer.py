"""Stages that give a net another last layer: by gradient descent, or by a plugin of `infer`."""

from typing import Any

from fairkd_jax.config import Mix, Plugin, RefitStage, Stage, TableStage


def features_of(net: Stage, split: str) -> Stage:
    """A table of what a net's head reads, on every example of a split."""
    return Stage("table", TableStage(("features",), split), {"net": net})


def retrained(base: Stage, net: Stage, share: float, changes: dict[str, Any]) -> Stage:
    """The head alone, trained on from where `net` left it, without a teacher and without dropout.

    For a share of the base's steps; what is drawn, and the optimizer's numbers, are in `changes`.
    """
    head = base.change(
        {
            "distill": {"name": "none"},
            "mix": Mix(),
            "data.augment": {},  # the last layer learns from the examples of the set alone
            "train.steps": max(1, round(share * base.config.train.steps)),
            "train.trainable": "nets/student/head/.*",
            "train.deterministic": True,
            "train.patience": 0,
            "train.select": "last",  # the split that a rule would look at may be trained on
        }
        | changes
    )
    if "attribute" in base.inputs and head.config.data.split == base.config.data.split:
        return Stage(head.kind, head.config, {"init": net, "attribute": base.inputs["attribute"]})
    return Stage(head.kind, head.change({"attributes": 0}).config, {"init": net})


def refitted(base: Stage, net: Stage, split: str, infer: Plugin, **tables: Stage) -> Stage:
    """The net with another head, which a plugin fits to examples of a split."""
    config = base.change({"data.split": split, "data.augment": {}}).config
    config = RefitStage(config.data, config.model, config.debias, infer, config.seed)
    return Stage("refit", config, {"net": net, **tables})
