"""What a method adds to a step: its own against plain ERM and Hinton's distillation, in turn.

All in one process, in alternating blocks, so that what else a machine does falls on all alike; the
ratios of processor time hold beside other work too. The step is that of a method's last training.
What its others cost is said by how long they are.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from fairkd_jax import registry
from fairkd_jax.benchmark import measure
from fairkd_jax.benchmark.measure import Stopwatch
from fairkd_jax.benchmark.table import aligned
from fairkd_jax.benchmark.workload import MODES, STEPS, Setup, Workload, setup
from fairkd_jax.config import ordered
from fairkd_jax.debias.base import Debiaser

ROOMS = {"debias": "erm", "distill": "kd_live"}  # room: the mode in which its methods are timed
SMALL = {  # workloads of the table; a method has the first whose nets it does not refuse
    "resnet": {"student": "tiny", "teacher": "tiny", "image": 32, "batch": 64},
    "bert": {"student": "tiny", "teacher": "tiny", "seq": 32, "batch": 32},
}
BESIDE = {"stages", "check", "check_tables", "tables"}  # of the contract: what no step asks for
BESIDE |= {"sees_attributes", "couples_examples", "changes_inputs", "search", "replace"}
HOOKS = (*(k for k in vars(Debiaser) if not k.startswith("_") and k not in BESIDE), "__call__")


def references(work: Workload) -> dict[str, Workload]:
    """What a workload is held against: ERM and, where there is a teacher, Hinton's distillation."""
    plain = dataclasses.replace(work, debias="erm", distill=None)
    taught = {"logits": plain} if MODES[work.mode][1] else {}
    return {"erm": dataclasses.replace(plain, mode="erm")} | taught


def cost(work: Workload, mesh: Mesh, steps: int, warmup: int, block: int = 4) -> dict[str, Any]:
    """The step of a workload's methods, and its ratios to those of the references."""
    cases = {"method": work} | references(work)
    watches = {k: Stopwatch(setup(v), mesh, None, "pjit", warmup) for k, v in cases.items()}
    with measure.bar(len(watches) * steps, "cost") as progress:
        return _held(watches, steps, block, progress.update)


def _held(
    watches: dict[str, Stopwatch], steps: int, block: int, done: Callable[[int], Any]
) -> dict[str, Any]:
    method = watches["method"]
    medians = measure.in_turn(watches, steps, block, done)
    row = about(method.case) | {
        f"{name}_ms": round(float(np.median(values)), 3) for name, values in medians.items()
    }
    rounds = len(medians["method"])
    row |= {"compile_s": round(method.compile_s, 2), "rounds": rounds, "block": block}
    for name in watches.keys() - {"method"}:
        row |= measure.ratio_of(medians["method"], medians[name], f"ratio_to_{name}")
        # of all threads: beside other work they wait, and run about as long
        cpu = (watches[k].cpu[-rounds:] for k in ("method", name))
        row |= measure.ratio_of(*cpu, f"cpu_ratio_to_{name}")
    return row


def about(case: Setup) -> dict[str, Any]:
    """What is timed; the stages that it takes, and how long they train in trainings of its own."""
    stages = [one.config for one in ordered([case.stage]).values()]
    steps = sum(one.train.steps for one in stages if hasattr(one, "train"))
    return measure.describe(case, "library", "pjit") | {
        "teachers": len(case.program.teachers),
        "stages": [one.kind for one in ordered([case.stage]).values()],
        "trainings": steps / STEPS,
    }


def rows(
    works: Sequence[Workload], mesh: Mesh, steps: int, warmup: int, block: int = 2
) -> Iterator[dict[str, Any]]:
    """A row for each method that is a file, of the first workload whose nets it does not refuse.

    References are compiled once. A method that all workloads are refused by has a note instead.
    """
    names = [(room, name) for room in ROOMS for name in registry.available(room)]
    known: dict[Workload, Stopwatch] = {}
    with measure.bar(len(names), "methods", "method") as progress:
        for room, name in names:
            progress.set_postfix_str(name)
            yield {"room": room, "name": name} | _row(
                room, name, works, known, mesh, steps, warmup, block
            )
            progress.update()


def _row(
    room: str, name: str, works: Sequence[Workload], known: dict[Workload, Stopwatch], *how: Any
) -> dict[str, Any]:
    mesh, steps, warmup, block = how
    refused = []
    for work in works:
        asked = dataclasses.replace(work, mode=ROOMS[room], **{room: name})
        try:
            case = setup(asked)
        except ValueError as error:
            refused.append(str(error))
            continue
        held = references(asked)
        for one in held.values():
            if one not in known:
                known[one] = Stopwatch(setup(one), mesh, None, "pjit", warmup)
        watches = {k: known[v] for k, v in held.items()}
        if is_plain(case, watches["erm"].case):
            same = {"ratio_to_erm": 1.0, "cpu_ratio_to_erm": 1.0, "note": "its step is that of ERM"}
            return about(case) | same
        watches = {"method": Stopwatch(case, mesh, None, "pjit", warmup)} | watches
        return _held(watches, steps, block, lambda taken: None)
    return {"note": f"refused: {refused[0]}"}


def is_plain(case: Setup, erm: Setup) -> bool:
    """Is the step that of ERM, since the method changes nothing of it?"""
    method = type(case.methods.debias)
    same = all(getattr(method, hook) is getattr(Debiaser, hook) for hook in HOOKS)
    return same and case.program == erm.program and case.methods.distill == erm.methods.distill


COLUMNS = (  # (title, field of a row, how it is written)
    ("of ERM", "ratio_to_erm", lambda row: _ratio(row, "ratio_to_erm")),
    ("CPU", "cpu_ratio_to_erm", lambda row: f"{row['cpu_ratio_to_erm']:.2f}"),
    ("of KD", "ratio_to_logits", lambda row: _ratio(row, "ratio_to_logits")),
    ("CPU", "cpu_ratio_to_logits", lambda row: f"{row['cpu_ratio_to_logits']:.2f}"),
    ("ms", "method_ms", lambda row: f"{row['method_ms']:.1f}"),
    ("net", "student", lambda row: f"{row['family']} {row['student']}"),
    ("teachers", "teachers", lambda row: str(row["teachers"])),
    ("trainings", "trainings", lambda row: f"{row['trainings']:g}"),
    ("stages", "stages", lambda row: " ".join(row["stages"])),
)


def _ratio(row: dict[str, Any], name: str) -> str:
    low, high = row.get(f"{name}_quartiles", (row[name], row[name]))
    return f"{row[name]:.2f} ({low:.2f}-{high:.2f})"


def render(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as an aligned table, those first that add most; what a row lacks is a dash."""

    def added(row: dict[str, Any]) -> float:
        return row.get("cpu_ratio_to_logits", row.get("cpu_ratio_to_erm", 0.0))

    lines = [("", "method", *(title for title, *_ in COLUMNS), "")]
    for row in sorted(rows, key=added, reverse=True):
        cells = (write(row) if key in row else "-" for _, key, write in COLUMNS)
        lines.append((row["room"], row["name"], *cells, row.get("note", "")))
    return aligned(lines)
