"""How an evaluation decides: by what process 0 fits to the validation split, told to all."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fairkd_jax import processes, registry
from fairkd_jax.config import Stage, TableStage
from fairkd_jax.data import pipeline
from fairkd_jax.data.dataset import Info, Split
from fairkd_jax.data.tables import read_table
from fairkd_jax.evaluation import decision
from fairkd_jax.evaluation.decision import Parameters
from fairkd_jax.study.reads import data_of, sealed_alone
from fairkd_jax.types import Path

CALIBRATION = "calibration"  # the input of an evaluation that a decision is fitted to


def calibration(net: Stage, split: str) -> Stage:
    """A table of what a net says of the split that decisions are fitted to."""
    return sealed_alone(Stage("table", TableStage(("log_probs",), split), {"net": net}))


def check(stage: Stage, scored: Info) -> None:
    """Raises ValueError, before any compute, for a decision that can be fitted or made nowhere."""
    opened, split = pipeline.open_data(data_of(stage)), _examples(stage)
    method, info = registry.build("decide", stage.config.decide), split.info
    if info.label_names != opened.dataset.info.label_names:
        raise ValueError(
            f"{decision.title(method)} would be fitted to split "
            f"{stage.inputs[CALIBRATION].config.split!r} with labels {list(info.label_names)}, and "
            f"the net has {list(opened.dataset.info.label_names)}: name another, train.validation"
        )
    decision.check(method, info, split.counts().reshape(np.shape(info.aligned)), scored)


def rule(stage: Stage, folder: Callable[[Stage], Path]) -> tuple[Any, Parameters | None]:
    """(what decides on rows, its parameters) of an evaluation; none where the likeliest counts."""
    if not stage.config.decide:
        return None, None
    method = registry.build("decide", stage.config.decide)

    def fit() -> Parameters:
        columns = _examples(stage).columns
        table = read_table(folder(stage.inputs[CALIBRATION]) / "table")
        log_probs = table.join(columns["id"])["log_probs"]
        return decision.fitted(method, log_probs, columns["label"], columns["attribute"])

    parameters = processes.lead(fit)
    decide = functools.partial(decision.decided, method, parameters, seed=stage.config.seed)
    return decide, parameters


def _examples(stage: Stage) -> Split:
    split = stage.inputs[CALIBRATION].config.split
    return pipeline.open_data(data_of(stage)).source(split).split
