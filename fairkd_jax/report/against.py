"""Against which teachers a distilled run is measured: the only one, or each, and their mean.

A number of the mean of teachers is the mean of their numbers, seed by seed; it is not that of one
net that averages their answers.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

Ids = str | tuple[str, ...]  # a run, or several of which the mean is taken


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A method on a pair of models, over seeds: run ids by role, in the order of `seeds`."""

    debias: str  # "teacher's method → student's" where they differ
    distill: str
    teacher_model: str
    model: str
    axes: tuple[tuple[str, str], ...]  # what else the study varies and the fields above do not say
    seeds: tuple[int, ...]
    runs: Mapping[str, tuple[Ids, ...]]
    inside: str = "teacher"  # which comparison of layers is that with this teacher; "": none
    rungs: tuple[tuple[str, ...], ...] = ()  # of each its runs, from the teacher down

    @property
    def pair(self) -> str:
        """Teacher's model → student's model."""
        return f"{self.teacher_model} → {self.model}"

    def nets(self, role: str) -> tuple[str, ...]:
        """The runs of a role; none where it is a mean of several."""
        return tuple(run for run in self.runs[role] if isinstance(run, str))

    @property
    def method(self) -> tuple[str, ...]:
        """The debiasing method and the axes: `("group_dro", "mix.scope=task")`.

        An axis value that names the method, as `"group_dro, last layer"` does, stands for it.
        """
        named = [value for _, value in self.axes if naming(value, self.debias)]
        others = [f"{axis}={value}" for axis, value in self.axes if value not in named]
        return (named[0] if named else self.debias, *others)


@dataclasses.dataclass(frozen=True)
class Against:
    """What a distilled run is measured against: a teacher, or the mean of all."""

    model: str  # with its name, where it has one
    debias: str
    runs: Ids
    inside: str  # the comparison of layers with it; "": there is none


def against(run: Mapping[str, Any], runs: Mapping[str, Mapping[str, Any]]) -> list[Against]:
    """What a distilled run of `study.json` is compared with; `runs` are all by id."""
    named = run.get("teachers") or {}
    if not named:
        debias = run.get("teacher_debias", "")
        return [Against(run["teacher_model"], debias, run["teacher_run"], "teacher")]
    found = [
        Against(f"{name} {runs[one]['model']}", runs[one]["debias"], one, name)
        for name, one in named.items()
    ]
    if len(found) > 1:
        mean = f"mean of {', '.join(named)}"
        found.append(Against(mean, run["teacher_debias"], tuple(named.values()), ""))
    return found


def compared(
    axes: tuple[tuple[str, str], ...],
    distilled: Mapping[int, Mapping[str, Any]],
    runs: Mapping[str, Mapping[str, Any]],
) -> list[Comparison]:
    """Of distilled runs by seed, a comparison for each that they are measured against."""
    seeds = tuple(sorted(distilled))
    found, first = [], distilled[seeds[0]]
    students = {
        "baseline": tuple(distilled[seed]["baseline_run"] for seed in seeds),
        "distilled": tuple(distilled[seed]["run"] for seed in seeds),
    }
    rungs = tuple(zip(*[distilled[seed].get("rungs", ()) for seed in seeds]))
    for sides in zip(*[against(distilled[seed], runs) for seed in seeds]):
        found.append(
            Comparison(
                methods(sides[0].debias, first["debias"]),
                first["distill"],
                sides[0].model,
                first["model"],
                axes,
                seeds,
                {"teacher": tuple(side.runs for side in sides)} | students,
                sides[0].inside,
                rungs,
            )
        )
    return found


def methods(teacher: str | None, student: str) -> str:
    """Debiasing methods of teacher and student, in one word where they are the same."""
    return student if (teacher or student) == student else f"{teacher} → {student}"


def naming(value: str, method: str) -> bool:
    """Does an axis value hold a method's name, whole: `erm`, but not `intermediate`?"""
    return re.search(rf"(?<!\w){re.escape(method)}(?!\w)", value) is not None


def teachers(run: Mapping[str, Any]) -> dict[str, str]:
    """The runs of the teachers of a distilled run, by name; "" is that of the only one."""
    return dict(run.get("teachers") or {"": run.get("teacher_run", "")})


def told(run: Mapping[str, Any]) -> str:
    """The named teachers of a distilled run, or of a rung: "big: RUN; small: RUN"."""
    named = (run.get("teachers") or {}) if run["role"] != "baseline" else {}
    return "; ".join(f"{name}: {one}" for name, one in named.items())


def members(run: Ids) -> tuple[str, ...]:
    """The runs behind a number."""
    return run if isinstance(run, tuple) else (run,)
