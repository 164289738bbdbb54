"""A finished study as numbers: one measured value a row, and the trios of runs that are compared.

A study folder holds `study.json` (what was run) and `stages/<identity>/result.json` (what came of
it). Nothing here computes a statistic; `null` in JSON, an undefined value, becomes NaN.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from fairkd_jax import files
from fairkd_jax.evaluation.fairness import IN_DOMAIN, gap_id_ood
from fairkd_jax.registry import UnknownName
from fairkd_jax.report.against import (
    Comparison,
    Ids,
    compared,
    members,
    methods,
    naming,
    teachers,
    told,
)
from fairkd_jax.study import stored
from fairkd_jax.types import Path

COLUMNS = (
    "study", "run", "role", "debias", "distill", "model", "parameters", "teacher_model", "seed",
    "dataset", "split", "group", "metric", "value", "n", "selection", "stage",
)  # fmt: skip
SOMETIMES = ("rung", "teachers", "decide")  # columns of `records.csv` where they say anything
ROLES = ("teacher", "baseline", "distilled")
RUNG = "rung"  # the role of what is between teacher and student, where there is anything
WORST_OF = {  # metric that is the lowest of parts of a split -> metric of the rows of the parts
    "worst_group_accuracy": "accuracy",
    "worst_subpopulation_accuracy": "acc_subpopulation",
    "acc_wg": "acc_subpopulation",
}


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished study: `study.json`, the results of its evaluations, and how to ask for values."""

    folder: Path  # the work folder
    about: Mapping[str, Any]
    results: Mapping[str, Mapping[str, Any]]  # identity of an evaluate stage -> its result

    @cached_property
    def runs(self) -> dict[str, Mapping[str, Any]]:
        """Runs by id, in the order of the study."""
        return {run["run"]: run for run in self.about["runs"]}

    @cached_property
    def rows(self) -> pd.DataFrame:
        """`COLUMNS`, `SOMETIMES`, "worst", "evaluation" (as `in_domain/test`), "id" (the run's)."""
        datasets = _dataset_names(self)
        rows = [
            {
                "study": self.about["study"],
                **{k: run[k] for k in COLUMNS if k in run},
                "run": _run_name(run, self.telling_axes),
                "dataset": datasets[evaluation, result["dataset"]],
                "split": result["split"],
                **value,
                "stage": stage,
                "rung": str(len(run["rungs"]) + 1) if run["role"] == RUNG else "",
                "teachers": told(run),
                "decide": run.get("decide", ""),
                "evaluation": evaluation,
                "id": run["run"],
            }
            for run in self.runs.values()
            for evaluation, stage in run["evaluations"].items()
            for result in [self.results[stage]]
            for value in [*_values(result), *_gap_id_ood(self, run, evaluation)]
        ]
        columns = [*COLUMNS, *SOMETIMES, "worst", "evaluation", "id"]
        return pd.DataFrame(rows, columns=columns).fillna({"worst": ""})

    @cached_property
    def telling_axes(self) -> tuple[str, ...]:
        """Axes and options that tell distilled runs apart whose methods and models do not."""
        alike: dict[tuple, list[dict[str, str]]] = {}
        for run in self.runs.values():
            if run["role"] == "distilled":
                alike.setdefault(_methods(run), []).append(_settings(run))
        return tuple(
            dict.fromkeys(
                axis
                for settings in alike.values()
                for axis in dict.fromkeys(axis for one in settings for axis in one)
                if len({one.get(axis) for one in settings}) > 1
            )
        )

    @cached_property
    def _lookup(self) -> dict[tuple, float]:
        keys = self.rows[["id", "evaluation", "metric", "group"]].itertuples(index=False, name=None)
        return dict(zip(keys, self.rows["value"]))

    def values(
        self, runs: Iterable[Ids], evaluation: str, metric: str, group: str = ""
    ) -> Float[np.ndarray, "runs"]:
        """The value of each run, of several the mean, NaN where one has none."""
        key = (evaluation, metric, group)
        found = [[self._lookup.get((one, *key), math.nan) for one in members(r)] for r in runs]
        return np.array([sum(values) / len(values) for values in found], np.float64)

    def stages(self, run: Ids) -> tuple[str, ...]:
        """The stages that trained the nets of a run, or of several."""
        return tuple(self.runs[one]["stage"] for one in members(run))

    def metrics(self, evaluation: str) -> pd.DataFrame:
        """Columns "metric", "group", "n" of an evaluation, each metric once, as first seen."""
        rows = self.rows[self.rows["evaluation"] == evaluation]
        return rows[["metric", "group", "n"]].drop_duplicates(["metric", "group"])

    def worst_group(
        self, runs: Iterable[Ids], evaluation: str, metric: str = "accuracy"
    ) -> tuple[str, int]:
        """The group that is the worst in most runs (the first of equals), and in how many.

        Or the subpopulation, where the metric is "acc_subpopulation".
        """
        metrics, runs = self.metrics(evaluation), list(runs)
        groups = [g for g in metrics["group"][metrics["metric"] == metric] if g]
        values = np.array([self.values(runs, evaluation, metric, g) for g in groups])
        lowest = np.min(values, axis=0, where=np.isfinite(values), initial=math.inf)
        times = (values == lowest).sum(axis=1) if groups else np.zeros(0, int)
        return (groups[times.argmax()], int(times.max())) if times.any() else ("", 0)

    @cached_property
    def evaluations(self) -> tuple[str, ...]:
        """Names such as `in_domain/test`."""
        return tuple(dict.fromkeys(self.rows["evaluation"]))

    def headline(self) -> list[tuple[str, str, str]]:
        """(evaluation, metric, group) of the metrics put first.

        Raises UnknownName for one that was not measured, ValueError where there is none.
        """
        if not self.about["headline"]:
            raise ValueError(f"study {self.about['study']!r} names no headline metric to report")
        known = {}
        for evaluation in self.evaluations:
            for metric, group, _ in self.metrics(evaluation).itertuples(index=False):
                name = "acc_group" if group and metric == "accuracy" else metric
                name = f"{name}/{group}" if group else name
                known[f"{evaluation}/{name}"] = (evaluation, metric, group)
        for name in self.about["headline"]:
            if name not in known:
                raise UnknownName(name, "headline metric of the study:", known)
        return [known[name] for name in self.about["headline"]]

    def comparisons(self) -> list[Comparison]:
        """One for each method, pair of models and axis value; see `against` for several teachers.

        Raises ValueError for two runs of one seed that nothing tells apart.
        """
        groups: dict[tuple, dict[int, Mapping[str, Any]]] = {}
        for run in self.runs.values():
            if run["role"] != "distilled":
                continue
            settings = _settings(run)
            key = (*_methods(run), *((a, settings[a]) for a in self.telling_axes if a in settings))
            same = groups.setdefault(key, {})
            if run["seed"] in same:
                twin = same[run["seed"]]["run"]
                raise ValueError(f"runs {twin!r} and {run['run']!r} differ in no axis and no seed")
            same[run["seed"]] = run
        return [c for key, same in groups.items() for c in compared(key[4:], same, self.runs)]

    def result(self, stage: str, run: str, what: str) -> dict[str, Any]:
        """`stages/<stage>/result.json`; ValueError, naming the run, where it is missing."""
        return _result(self.folder, stage, run, what)


def read(folder: Path) -> Finished:
    """The finished study in a folder of its own, `WORKDIR/studies/NAME`.

    Raises ValueError, naming the run, for a distilled run without its teacher or its baseline and
    for a stage without a result; FileNotFoundError for a folder that holds no study.
    """
    path = folder / "study.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {folder} holds no finished study")
    about, workdir = files.read_sealed(path), folder.parent.parent
    roles = {run["run"]: run["role"] for run in about["runs"]}
    if len(roles) != len(about["runs"]):
        raise ValueError(f"{path}: two runs share an id")
    for run in about["runs"]:
        if run["role"] not in (*ROLES, RUNG):
            raise UnknownName(run["role"], f"role of run {run['run']!r}:", (*ROLES, RUNG))
        needed = [("teacher", one) for one in teachers(run).values()]
        needed += [(RUNG, one) for one in run.get("rungs", ())]
        needed.append(("baseline", run.get("baseline_run", "")))
        for role, other in needed if run["role"] == "distilled" else ():
            # a teacher may be a distilled net itself; the others have the role that they are for
            if other not in roles or (role != "teacher" and roles[other] != role):
                raise ValueError(
                    f"run {run['run']!r} is distilled and has no {role} to be compared with"
                    f" ({role}_run = {other!r}): the report would say nothing"
                )
    results = {
        stage: _result(workdir, stage, run["run"], evaluation)
        for run in about["runs"]
        for evaluation, stage in run["evaluations"].items()
    }
    return Finished(workdir, about, results)


def labels(comparisons: Sequence[Comparison]) -> list[str]:
    """A short name for each comparison: its method, and what else differs between them."""
    shared = shared_parts(comparisons).values()
    return [
        " · ".join(
            [c.method[0], *(p for p in (c.distill, c.pair) if p not in shared), *c.method[1:]]
        )
        for c in comparisons
    ]


def shared_parts(comparisons: Sequence[Comparison]) -> dict[str, str]:
    """The distillation and the pair of models, each where all comparisons have the same."""
    columns = {
        "distillation": {c.distill for c in comparisons},
        "models": {c.pair for c in comparisons},
    }
    return {what: names.pop() for what, names in columns.items() if len(names) == 1}


def span(values: Sequence[int]) -> str:
    """ "6", or "5–6" where values differ."""
    return "–".join(str(v) for v in dict.fromkeys((min(values), max(values))))


def in_domain(run: Mapping[str, Any], evaluation: str) -> str:
    """The evaluation in domain that one elsewhere is compared with: that of the split of the same
    name, else the last; "" for one that is in domain itself, or where none is.
    """
    source, _, split = evaluation.partition("/")
    inside = [e for e in run["evaluations"] if e.partition("/")[0] == IN_DOMAIN]
    if source == IN_DOMAIN or not inside:
        return ""
    same = f"{IN_DOMAIN}/{split}"
    return same if same in inside else inside[-1]


def as_csv(finished: Finished) -> str:
    """`records.csv`, exactly `COLUMNS`, an empty value where it is undefined.

    Each where there is any: "rung", the place of one; "teachers" where they have names; "decide",
    what tells labels, where it is more than the likeliest; "worst", of what a worst accuracy is,
    where a set has subpopulations.
    """
    columns = [*COLUMNS, *(k for k in SOMETIMES if finished.rows[k].any())]
    columns += ["worst"] * bool((finished.rows["metric"] == "acc_subpopulation").any())
    return finished.rows[columns].to_csv(index=False, lineterminator="\n")


def _result(folder: Path, stage: str, run: str, what: str) -> dict[str, Any]:
    path = stored.require(folder / "stages" / stage, f"run {run!r}, {what!r}") / "result.json"
    return files.read_json(path)


def _methods(run: Mapping[str, Any]) -> tuple[str, str, str, str]:
    debias = methods(run.get("teacher_debias"), run["debias"])
    return debias, run["distill"], run["teacher_model"], run["model"]


def _settings(run: Mapping[str, Any]) -> dict[str, str]:
    """Every axis and every option of the methods: `{"mix.scope": "task", "debias.step_size": ...}`.

    Axes win over options of the same name; a lone distiller is "distill", several are numbered.
    """
    several = len(run["distill_options"]) > 1
    named = {
        f"distill.{i}" if several else "distill": d for i, d in enumerate(run["distill_options"])
    }
    options = {
        f"{place}.{key}": str(value)
        for place, plugin in {"debias": run["debias_options"], **named}.items()
        for key, value in plugin.items()
        if key != "name"
    }
    return options | {axis: str(label) for axis, label in run["axes"].items()}


def _run_name(run: Mapping[str, Any], axes: tuple[str, ...]) -> str:
    """The id of a run with every axis that only the study knows: `... [mix.scope=task]`."""
    told = {axis: value for axis, value in _settings(run).items() if axis in axes}
    labels = [f"{axis}={v}" for axis, v in told.items() if not naming(v, run["debias"])]
    missing = [label for label in labels if label not in run["run"]]
    return f"{run['run']} [{', '.join(missing)}]" if missing else run["run"]


def _dataset_names(finished: Finished) -> dict[tuple[str, str], str]:
    """(evaluation, set) -> the set's name, with the evaluation's where it alone is ambiguous."""
    readers: dict[tuple[str, str], set[str]] = {}
    for run in finished.runs.values():
        for evaluation, stage in run["evaluations"].items():
            result = finished.results[stage]
            readers.setdefault((result["dataset"], result["split"]), set()).add(evaluation)
    names = {}
    for (dataset, _), evaluations in readers.items():
        for evaluation in evaluations:
            source = evaluation.partition("/")[0]
            ambiguous = len(evaluations) > 1 and source != IN_DOMAIN
            names[evaluation, dataset] = f"{dataset} ({source})" if ambiguous else dataset
    return names


def _values(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The metrics of one evaluation with the number of examples behind each."""
    counts = dict(zip(result["group_names"], result["group_counts"]))
    accuracy = np.array([_number(result["metrics"].get(f"acc_group/{g}")) for g in counts])
    aligned = np.array(result["aligned"], bool)  # [labels, attributes], and so are
    sizes = np.reshape(result["group_counts"], aligned.shape)
    correct = np.nan_to_num(accuracy.reshape(aligned.shape)) * sizes
    labels = sizes.sum(axis=1)
    parts = _subpopulations(result)
    lowest = {"accuracy": _lowest(accuracy, counts)}
    within = [_number(result["metrics"][f"acc_subpopulation/{p}"]) for p in parts]
    lowest["acc_subpopulation"] = _lowest(np.array(within), parts)
    worst = {metric: lowest[part] for metric, part in WORST_OF.items()}
    behind = {  # metrics that read a part of the split only
        **{metric: {**counts, **parts}.get(name, 0) for metric, name in worst.items()},
        "worst_class_accuracy": _size_of_lowest(
            correct.sum(axis=1) / np.where(labels > 0, labels, math.nan), labels
        ),
        "acc_aligned": int(sizes[aligned].sum()),
        "acc_conflicting": int(sizes[~aligned].sum()),
        **{
            f"gap_attribute/{name}": int(size)
            for name, size in zip(result["attribute_names"], sizes.sum(axis=0))
        },
    }
    rows = []
    for name, value in result["metrics"].items():
        kind, _, group = name.partition("/")
        if kind == "acc_group" and group in counts:
            row = {"group": group, "metric": "accuracy", "n": counts[group]}
        elif kind == "acc_subpopulation":
            row = {"group": group, "metric": kind, "n": parts[group]}
        else:
            row = {"group": "", "metric": name, "n": behind.get(name, sum(counts.values()))}
        rows.append({**row, "value": _number(value), "worst": worst.get(name, "")})
    return rows


def _subpopulations(result: Mapping[str, Any]) -> dict[str, int]:
    """Their sizes by name; none in a result of before there were any."""
    return dict(zip(result.get("subpopulations", ()), result.get("subpopulation_counts", ())))


def _lowest(values: Float[np.ndarray, "n"], names: Iterable[str]) -> str:
    return "" if np.isnan(values).all() else [*names][np.nanargmin(values)]


def _size_of_lowest(values: Float[np.ndarray, "n"], sizes: Int[np.ndarray, "n"]) -> int:
    return 0 if np.isnan(values).all() else int(sizes[np.nanargmin(values)])


def _gap_id_ood(
    finished: Finished, run: Mapping[str, Any], evaluation: str
) -> list[dict[str, Any]]:
    """`acc_avg` in domain - accuracy here: on all examples, and on each subpopulation."""
    inside = in_domain(run, evaluation)
    if not inside:
        return []
    first, here = (finished.results[run["evaluations"][e]] for e in (inside, evaluation))
    parts = {"acc_avg": ("", sum(here["group_counts"]))}
    parts |= {f"acc_subpopulation/{p}": (p, n) for p, n in _subpopulations(here).items()}
    acc_id = _number(first["metrics"].get("acc_avg"))
    return [
        {
            "group": group,
            "metric": "gap_id_ood",
            "value": gap_id_ood(acc_id=acc_id, acc_ood=_number(here["metrics"].get(name))),
            "n": n,
        }
        for name, (group, n) in parts.items()
    ]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
