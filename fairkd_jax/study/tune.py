"""Chooses options of every method of a study by validation alone, with as many trials for each.

A cell is a value of the study's axis. Its first trial is the cell as it is; in each other one some
options have values drawn from `Study.search` (dotted keys of the experiment) and from what the
cell's debiasing method says is worth trying (`Debiaser.search`): all different, the same whenever
they are drawn. A trial trains the net of one role from seeds that the study does not use, and is
scored on the validation split by the role's rule of selection; no test split is read. The best
mean over seeds is chosen.
"""

import dataclasses
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import logging
from jax.sharding import Mesh

from fairkd_jax import files, processes, registry
from fairkd_jax.config import (
    Attention,
    Circuit,
    Compare,
    Evaluation,
    Experiment,
    Probe,
    Stitch,
    Study,
    as_dict,
    update,
)
from fairkd_jax.evaluation.fairness import IN_DOMAIN, SELECTED_BY
from fairkd_jax.evaluation.metrics import merit
from fairkd_jax.registry import UnknownName
from fairkd_jax.study import execute, plan
from fairkd_jax.study.check import check
from fairkd_jax.train import log
from fairkd_jax.train.loop import NotFinite
from fairkd_jax.types import Path

ROLES = ("teacher", "baseline")  # of nets that are trained without distillation
SEEDS_FROM = 1000  # above those of the study: what is chosen is not chosen for them


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting of a cell, and the net of each seed."""

    cell: str
    number: int  # 0: as the study has it
    changes: Mapping[str, Any]  # dotted keys of the experiment
    runs: tuple[plan.Run, ...]


def cells(study: Study) -> dict[str, dict[str, Any]]:
    """What each value of the study's axis changes, by label. ValueError unless it has one axis."""
    if len(study.axes) != 1:
        raise ValueError(f"axes = {[*study.axes]}: a study is tuned along its axis, and needs one")
    [(axis, values)] = study.axes.items()
    return {plan.label(value): plan.changes(axis, value) for value in values}


def space(study: Study, experiment: Experiment) -> dict[str, tuple]:
    """Values to draw from, by dotted key of the experiment. ValueError for keys without values."""
    own = registry.plugin("debias", experiment.debias["name"]).search
    found = dict(study.search) | {f"debias.{key}": values for key, values in own.items()}
    for key, values in found.items():
        if not isinstance(values, list | tuple) or not values:
            raise ValueError(f"search.{key} = {values!r}: expected a tuple of values to draw from")
    return {key: tuple(values) for key, values in found.items()}


def settings(label: str, space: Mapping[str, tuple]) -> Iterator[dict[str, Any]]:
    """Every setting once, in a random order that is always the same."""
    sizes = [len(values) for values in space.values()]
    rng = np.random.default_rng(zlib.crc32(label.encode()))
    for place in rng.permutation(math.prod(sizes)):
        at = np.unravel_index(place, sizes) if sizes else ()
        yield {key: values[i] for (key, values), i in zip(space.items(), at)}


def draw(
    label: str, experiment: Experiment, space: Mapping[str, tuple], number: int
) -> list[tuple[dict[str, Any], Experiment]]:
    """`number` different experiments, the first as it is, with what was changed in each.

    Fewer where the space is smaller.
    """
    found = [({}, experiment)]
    for changes in settings(label, space):
        if len(found) == number:
            break
        changed = update(experiment, changes, "search")
        if changed != experiment:
            found.append((changes, changed))
    return found


def trials(study: Study, role: str, number: int, seeds: int) -> list[Trial]:
    """Every trial of every cell. Raises what `check` raises, before any compute."""
    if role not in ROLES:
        raise UnknownName(role, "role to tune", ROLES)
    if number < 1 or not 1 <= seeds <= SEEDS_FROM:
        raise ValueError(f"trials = {number}, seeds = {seeds}: expected numbers from 1 up")
    how = study.experiment.student.train if role == "baseline" else study.experiment.teacher.train
    if how.select == "last":
        raise ValueError(f"{role}: train.select = 'last' names nothing to choose by: name a rule")
    metric = f"{IN_DOMAIN}/{how.validation}/{SELECTED_BY.get(how.select, how.select)}"
    found = []
    for label, cell in cells(study).items():
        asked = update(study.experiment, cell, "axes")
        drawn = draw(label, asked, space(study, asked), number)
        for i, (changes, experiment) in enumerate(drawn):
            alone = dataclasses.replace(
                experiment,
                seed=experiment.seed + SEEDS_FROM,
                evaluate={IN_DOMAIN: Evaluation(splits=(how.validation,))},
                compare=Compare(),
                attention=Attention(),
                probe=Probe(),
                stitch=Stitch(),
                circuit=Circuit(),
                decide=None,  # it would be fitted to what it is then scored on
            )
            one = dataclasses.replace(
                study, experiment=alone, axes={}, seeds=seeds, headline=(metric,)
            )
            # what may differ between trials are numbers, which a plan is made of: the first tells
            planned = plan.runs(one) if i else check(one)
            runs = tuple(run for run in planned if run.role == role)
            found.append(Trial(label, i, changes, runs))
    return found


def run(study: Study, asked: list[Trial], workdir: Path, mesh: Mesh) -> pd.DataFrame:
    """All trials that are not done yet: a row each, with what their validation says."""
    rows = []
    with log.progress(total=sum(len(t.runs) for t in asked), desc="trials", unit="run") as bar:
        for trial in asked:
            for one in trial.runs:
                rows.append(
                    {
                        "cell": trial.cell,
                        "trial": trial.number,
                        "changes": json.dumps(as_dict(trial.changes)),
                        "seed": one.experiment.seed,
                        "rule": one.how.train.select,
                        **_scored(one, workdir, mesh, study.name),
                    }
                )
                bar.update()
    return pd.DataFrame(rows)


def _scored(run: plan.Run, workdir: Path, mesh: Mesh, name: str) -> dict[str, Any]:
    """The value of the rule and the average accuracy; NaN for a run that diverges."""
    try:
        execute.run_stages([run], workdir, mesh, f"{name} {run.name}", leave=False)
    except (NotFinite, FloatingPointError) as error:
        logging.warning("%s counts as the worst: %s", run.name, error)
        return {"value": math.nan, "acc_avg": math.nan}
    [evaluation] = run.evaluations.values()
    path = workdir / "stages" / evaluation.identity / "result.json"
    metrics = processes.lead(lambda: files.read_json(path)["metrics"])
    rule = run.how.train.select
    return {"value": metrics[SELECTED_BY.get(rule, rule)], "acc_avg": metrics["acc_avg"]}


def choose(table: pd.DataFrame) -> pd.DataFrame:
    """Of each cell the trial whose mean over seeds is best, the first of equals: a row each.

    A trial in which a run diverged is never chosen before one in which none did.
    """
    means = (
        table.groupby(["cell", "trial", "changes", "rule"], sort=False)[["value", "acc_avg"]]
        .agg(lambda column: column.mean(skipna=False))
        .reset_index()
    )
    rule = means["rule"].iloc[0]
    means["merit"] = [merit(SELECTED_BY.get(rule, rule), value) for value in means["value"]]
    ordered = means.sort_values(
        ["merit", "acc_avg"], ascending=False, kind="stable", na_position="last"
    )
    best = ordered.drop_duplicates("cell").set_index("cell").loc[means["cell"].unique()]
    first = means[means["trial"] == 0].set_index("cell")["value"]
    return best.drop(columns="merit").assign(untuned=first).reset_index()


def write(study: Study, table: pd.DataFrame, workdir: Path) -> Path:
    """`tuned/NAME.csv`, all trials, and `tuned/NAME.json`, what was chosen; returns the latter."""
    folder = workdir / "tuned"
    path = folder / f"{study.name}.json"
    chosen = choose(table)
    told = {
        "study": study.name,
        "rule": table["rule"].iloc[0],
        "trials": int(table["trial"].max()) + 1,
        "seeds": sorted({int(seed) for seed in table["seed"]}),
        "chosen": {row.cell: json.loads(row.changes) for row in chosen.itertuples()},
    }
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        files.write(folder / f"{study.name}.csv", table.to_csv(index=False, lineterminator="\n"))
        files.write_json(path, told)
    return path


def tuned(study: Study, path: Path) -> Study:
    """The study with the options that were chosen for each value of its axis.

    Raises UnknownName for a value that the file does not know, ValueError for another study, or
    for what is no such file.
    """
    told = files.read_json(path) if path.is_file() else {}
    if not isinstance(told, Mapping) or not {"study", "chosen"} <= {*told}:
        raise ValueError(f"{path} is no file that fairkd-tune wrote, tuned/NAME.json")
    if told["study"] != study.name:
        raise ValueError(
            f"{path} holds what was chosen for study {told['study']!r}, not {study.name!r}"
        )
    [axis], values = study.axes, []
    for label, cell in cells(study).items():
        if label not in told["chosen"]:
            raise UnknownName(label, f"value of axis {axis!r} in {path}:", told["chosen"])
        value = dict(cell)
        for key, new in told["chosen"][label].items():
            whole, _, option = key.partition(".")
            if whole in value:  # a plugin, of which this is an option
                value[whole] = update(value[whole], {option: new})
            else:
                value[key] = new
        values.append({"label": label} | value)
    return dataclasses.replace(study, axes={axis: tuple(values)})
