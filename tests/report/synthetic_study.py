"""Writes a finished study with made-up numbers, in the format that the study room writes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fairkd_jax import files
from fairkd_jax.study import stored

LABELS, ATTRIBUTES = ("0-4", "5-9"), ("red", "green")
GROUPS = tuple(f"{y}, {a}" for y in LABELS for a in ATTRIBUTES)
COUNTS = (500, 40, 60, 400)
ALIGNED = [[True, False], [False, True]]
MODELS = {"teacher": "resnet/mini", "baseline": "resnet/tiny", "distilled": "resnet/tiny"}
PARAMETERS = {"resnet/mini": 77000, "resnet/tiny": 12000}
WORST = {  # mean worst-group accuracy by method and role; seed s adds a known ripple
    "erm": {"teacher": 0.10, "baseline": 0.12, "distilled": 0.10},
    "group_dro": {"teacher": 0.70, "baseline": 0.60, "distilled": 0.55},
}


def ripple(role: str, seed: int, method: str = "group_dro") -> float:
    """What a seed adds: the same for teacher and baseline, a little else for distilled.

    Also a little else for "erm", so that gains vary; over an even number of seeds that is 0.
    """
    shared = 0.02 * ((seed * 7) % 5 - 2) + 0.01 * (-1) ** seed * (method == "erm")
    return shared + (0.01 * ((seed * 3) % 4 - 1.5) if role == "distilled" else 0.0)


def build(
    folder: Path,
    *,
    worst: Mapping[str, Mapping[str, float]] = WORST,
    seeds: int = 6,
    axes: Mapping[str, Sequence[str]] | None = None,
    counts: Sequence[int] = COUNTS,
    compare: bool = True,
    headline: Sequence[str] = ("in_domain/test/worst_group_accuracy",),
    subpopulations: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Any]:
    """Writes a study and its stages, and returns what `study.json` holds.

    `folder` is the study's own, `WORKDIR/studies/NAME`. `subpopulations` of the shifted set, by
    name with their sizes, are scored .8, .7, ... in this order, plus a hundredth a seed.
    """
    axes = axes or {"": [""]}
    (axis, labels), rows = next(iter(axes.items())), []
    for method, means in worst.items():
        for seed in range(seeds):
            for label in labels:
                extra = {axis: label} if axis else {}
                ids = {r: f"{r} {method} {label} seed{seed}" for r in MODELS}
                for role in MODELS:
                    accuracy = means[role] + ripple(role, seed, method)
                    if role == "distilled" and label == "task":
                        accuracy += 0.05
                    student = role != "teacher"
                    rows.append(
                        {
                            "run": ids[role],
                            "role": role,
                            "debias": method,
                            "debias_options": {"name": method},
                            "distill": "logits" if role == "distilled" else "none",
                            "distill_options": [],
                            "model": MODELS[role],
                            "parameters": PARAMETERS[MODELS[role]],
                            "teacher_model": "resnet/mini" if role == "distilled" else "",
                            "teacher_debias": method if role == "distilled" else "",
                            "seed": seed,
                            "axes": {"debias": method, **extra},
                            "selection": "last",
                            "stage": _train(folder, ids[role], accuracy),
                            "evaluations": {
                                "in_domain/test": _evaluate(
                                    folder, ids[role], "", accuracy, counts
                                ),
                                "shifted/test": _evaluate(
                                    folder,
                                    ids[role],
                                    "shifted",
                                    accuracy - 0.08,
                                    counts,
                                    {p: (n, seed) for p, n in subpopulations.items()},
                                ),
                            },
                            "comparisons": {"teacher": _compare(folder, ids[role], seed)}
                            if student and compare
                            else {},
                            "teacher_run": ids["teacher"] if student else "",
                            "baseline_run": ids["baseline"] if role == "distilled" else "",
                        }
                    )
    table = {"group_names": GROUPS, "counts": counts}
    parts = {
        "subpopulations": [*subpopulations],
        "subpopulation_counts": [*subpopulations.values()],
    }
    facts = {"licence": "CC BY 4.0", "source": "drawn for this test"}
    study = {
        "study": "synthetic",
        "command": "python launch/study.py --config=configs/studies/synthetic.py",
        "versions": {"jax": "0.0.1", "flax": "0.0.2"},
        "device": "cpu x2",
        "config_hash": "0123456789ab",
        "config": {"name": "synthetic", "seeds": seeds},
        "selection": "last",
        "headline": list(headline),
        "seconds": 61.5,
        "label_names": LABELS,
        "runs": rows,
        "data": {
            "in_domain": {"train": {**table, "counts": [5000, 50, 60, 4000]}, "test": table}
            | facts,
            "shifted": {"test": table | parts} | facts,
        },
        "ledger": [
            {"stage": "a", "kind": "train", "seconds": 10.0, "examples": 20000}
            | {"compile_seconds": 4.0, "programs": 30, "programs_read": 2},
            {"stage": "b", "kind": "train", "seconds": 30.0, "examples": 40000}
            | {"compile_seconds": 0.5, "programs": 3, "programs_read": 3},
            {"stage": "c", "kind": "evaluate", "seconds": 1.0, "examples": 1000},
        ],
    }
    write(folder, study)
    close(folder)
    return study


def write(folder: Path, study: Mapping[str, Any]) -> None:
    """`study.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_sealed(folder / "study.json", study)


def close(folder: Path) -> None:
    """All stages are done, as they are now."""
    for path in folder.parent.parent.glob("stages/*"):
        stored.close(path, {"seconds": 1.0, "examples": 1})


def stage(folder: Path, *about: str) -> Path:
    """A stage's folder, made."""
    identity = hashlib.sha256(" ".join(about).encode()).hexdigest()[:12]
    path = folder.parent.parent / "stages" / identity
    path.mkdir(parents=True, exist_ok=True)
    return path


def _train(folder: Path, run: str, accuracy: float) -> str:
    path = stage(folder, run, "train")
    lines = [
        {"step": 50, "train/loss": 0.9},
        {"step": 50, "val/acc_avg": 0.7, "val/worst_group_accuracy": accuracy + 0.01},
        {"step": 100, "val/acc_avg": 0.8, "val/worst_group_accuracy": accuracy},
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path.name


def _evaluate(
    folder: Path,
    run: str,
    data: str,
    worst: float,
    counts: Sequence[int],
    named: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> str:
    path = stage(folder, run, data, "evaluate")
    accuracy = [0.95, worst + 0.1, worst, 0.9]
    accuracy = [a if n else None for a, n in zip(accuracy, counts)]
    correct = [(a or 0.0) * n for a, n in zip(accuracy, counts)]
    parts = [correct[0] + correct[3], correct[1] + correct[2]]
    sizes = [counts[0] + counts[3], counts[1] + counts[2]]
    average, lowest = sum(correct) / sum(counts), min(a for a in accuracy if a is not None)
    metrics = {
        "accuracy": average,
        "acc_avg": average,
        "worst_group_accuracy": lowest,
        "acc_aligned": parts[0] / sizes[0],
        "acc_conflicting": parts[1] / sizes[1],
        "gap_aligned": parts[0] / sizes[0] - parts[1] / sizes[1],
        "worst_class_accuracy": parts[0] / sizes[0] - 0.1,
        "gap_attribute/green": -0.2,
        "ece": 0.05,
        "loss": 0.7,
        **{f"acc_group/{g}": a for g, a in zip(GROUPS, accuracy)},
    }
    within = [0.8 - 0.1 * i + 0.01 * seed for i, (_, seed) in enumerate(named.values())]
    told = {}  # results of before there were subpopulations do not speak of them
    if named:
        metrics["worst_subpopulation_accuracy"] = metrics["acc_wg"] = min(within)
        metrics |= {f"acc_subpopulation/{p}": a for p, a in zip(named, within)}
        told = {"subpopulations": [*named], "subpopulation_counts": [n for n, _ in named.values()]}
    result = {
        "dataset": "made_digits",
        "split": "test",
        "group_names": GROUPS,
        "label_names": LABELS,
        "attribute_names": ATTRIBUTES,
        "aligned": ALIGNED,
        "group_counts": list(counts),
        "train_group_counts": None,
        "sums": {},
        "metrics": metrics,
        **told,
    }
    (path / "result.json").write_text(json.dumps(result))
    return path.name


def _compare(folder: Path, run: str, seed: int) -> str:
    path = stage(folder, run, "compare")
    first = [f"stage{i}/block{j}/out" for i in (1, 2, 3) for j in (0, 1)]
    second = [f"stage{i}/block0/out" for i in (1, 2, 3)]
    distance = np.abs(np.linspace(0, 1, 6)[:, None] - np.linspace(0, 1, 3)[None])
    aligned = 0.95 - 0.5 * distance + 0.01 * seed
    result = {
        "first_layers": first,
        "second_layers": second,
        "aligned": aligned.tolist(),
        "conflicting": (aligned - 0.3 * np.linspace(0, 1, 6)[:, None]).tolist(),
        "null_aligned": 0.004,
        "null_conflicting": 0.006,
        "n_aligned": 512,
        "n_conflicting": 100,
    }
    (path / "result.json").write_text(json.dumps(result))
    return path.name
