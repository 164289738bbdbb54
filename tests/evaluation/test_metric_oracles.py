"""Metrics against numbers from scikit-learn, torchmetrics, Fairlearn, WILDS and others.

Every case of the folder that holds logits and labels is found and run; what has no counterpart here
is listed in one line.
"""

import json

import jax
import numpy as np
import pytest
from conftest import ORACLES

from fairkd_jax.data.dataset import Info
from fairkd_jax.evaluation import fairness
from fairkd_jax.evaluation.sums import Sums, count, label_map

CASES = sorted((ORACLES / "metrics").glob("*.json")) if ORACLES else []
NLI = ("entailment", "neutral", "contradiction")  # order of the logits in cases of HANS
TRAINED_ON = "waterbirds_adjusted_accuracy"  # carries the training counts it was weighed by


def inputs_of(case) -> dict[str, np.ndarray]:
    with np.load(case.with_suffix(".npz"), allow_pickle=False) as arrays:
        return {k.removeprefix("in."): v for k, v in arrays.items() if k.startswith("in.")}


def arguments(meta: dict, found: dict) -> tuple[dict, Info, np.ndarray] | None:
    """(batch, info, label map) of a case, None where it has no predictions to count."""
    if "logits" not in found:
        return None
    if "heuristic" in found:
        heuristics = tuple(meta["hyper"]["heuristics"])
        info = Info(
            ("entailment", "non-entailment"),
            heuristics,
            ((True,) * len(heuristics), (False,) * len(heuristics)),
            "",
            "",
            collapses={"non-entailment": NLI[1:]},
        )
        label, attribute = 1 - found["gold_entailment"].astype(int), found["heuristic"]
        labels = label_map(NLI, info)
    else:
        label, num_labels = found["label"], found["logits"].shape[1]
        attribute = found.get("attribute", np.zeros_like(label))
        shape = meta["expected"].get("group_accuracy", {}).get("shape")
        num_attributes = shape[0] // num_labels if shape else int(attribute.max()) + 1
        names = tuple(map(str, range(num_labels)))
        aligned = ((True,) * num_attributes,) * num_labels
        info = Info(names, tuple(map(str, range(num_attributes))), aligned, "", "")
        labels = label_map(names, info)
    group = label * len(info.attribute_names) + attribute
    batch = {
        "label": label.astype(np.int32),
        "group": group.astype(np.int32),
        "real": np.ones(len(label), np.float32),
    }
    return batch, info, labels


def count_all(found: dict, batch: dict, info: Info, labels: np.ndarray, bins: int, dtype) -> Sums:
    """In two batches, to add on the way."""
    sizes = {"num_groups": len(info.group_names), "num_labels": len(info.label_names)}
    total = Sums.zero(*sizes.values(), bins)
    for at in (slice(0, 64), slice(64, None)):
        part = {name: x[at] for name, x in batch.items()}
        logits = jax.numpy.asarray(found["logits"][at], dtype)
        total += jax.device_get(count(logits, part, labels, **sizes, num_bins=bins))
    return total


def ours(key: str, sums: Sums, info: Info, metrics: dict[str, float]):
    """Our value of an expected key, None where there is none."""
    shape = (len(info.label_names), len(info.attribute_names), -1)
    name = key.split(".")[0]
    if name.startswith("ece"):
        return metrics["ece"] if name.endswith("equal_width") else None
    found = {
        "accuracy": lambda: metrics["acc_avg"],
        "avg_acc": lambda: metrics["acc_avg"],
        "overall_argmax": lambda: metrics["acc_avg"],
        "group_accuracy": lambda: fairness.group_accuracy(sums),
        "accuracy_argmax": lambda: fairness.group_accuracy(sums).reshape(shape[:2]),
        "group_count": lambda: fairness.group_counts(sums),
        "group_loss": lambda: np.nan_to_num(fairness.group_loss(sums)),  # there: 0 if empty
        "confusion": lambda: sums.predicted.reshape(shape).sum(axis=1),
        "nll": lambda: metrics["loss"],
        "nll_from_logits": lambda: metrics["loss"],
        "brier_multiclass": lambda: metrics["brier_score"],
        "brier_binary": lambda: metrics["brier_score"] / 2,
        TRAINED_ON: lambda: metrics["adj_acc_avg"],
    }
    return found[name]() if name in found else metrics.get(name)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.stem)
def test_targets(case, dtype, oracles):
    meta, found = json.loads(case.read_text()), inputs_of(case)
    given = arguments(meta, found)
    if given is None:
        pytest.skip("no logits and labels: not a case of predictions")
    arrays = np.load(case.with_suffix(".npz"), allow_pickle=False)
    trained_on = meta["expected"].get(TRAINED_ON, {}).get("params", {}).get("train_counts")
    counted, checked, left = {}, [], []
    for key, entry in meta["expected"].items():
        if entry["role"] != "target":
            continue
        bins = entry.get("params", {}).get("bins", 15)
        if bins not in counted:
            with jax.enable_x64(dtype == "float64"):
                counted[bins] = count_all(found, *given, bins, dtype)
        counts = None if trained_on is None else np.asarray(trained_on)
        metrics = fairness.metrics(counted[bins], given[1], train_counts=counts)
        got = ours(key, counted[bins], given[1], metrics)
        if got is None:
            left.append(key)
            continue
        want = entry["value"] if "value" in entry else arrays[f"out.{key}"]
        # float32 rounds probabilities, of which losses and calibration are means
        floor = 0 if dtype == "float64" else 2e-6
        rtol, atol = (max(entry.get(k) or 0, floor) for k in ("rtol", "atol"))
        np.testing.assert_allclose(got, want, rtol=rtol, atol=atol, err_msg=key)
        checked.append(key)
    print(f"{case.stem}: {len(checked)} checked; not covered: {', '.join(left) or 'none'}")
    assert checked or not any(e["role"] == "target" for e in meta["expected"].values())
