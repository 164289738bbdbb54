"""Accuracy, fairness and calibration from counts by group, under the names that users know.

What has no examples is NaN, never 0. Worst groups and means over groups are taken over the groups
that have examples; differences between attributes are NaN as soon as one of the rates is.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Integer, Real
from numpy.typing import ArrayLike

from fairkd_jax.data.dataset import Info
from fairkd_jax.evaluation.metrics import kind, merit
from fairkd_jax.evaluation.sums import Sums
from fairkd_jax.registry import UnknownName

IN_DOMAIN = "in_domain"  # the evaluation that `gap_id_ood` subtracts the others from
SELECTED_BY = {  # selection rule: the metric that it goes by; any other metric is its own rule
    "val_average": "acc_avg",
    "val_worst_group": "worst_group_accuracy",
    "val_worst_class": "worst_class_accuracy",
}


def group_counts(sums: Sums) -> Integer[np.ndarray, "G"]:
    """Examples by group."""
    return np.asarray(sums.predicted).sum(axis=1)


def group_accuracy(sums: Sums) -> Float[np.ndarray, "G"]:
    """Accuracy by group."""
    return _ratio(_group_correct(sums), group_counts(sums))


def group_loss(sums: Sums) -> Float[np.ndarray, "G"]:
    """Mean cross-entropy by group."""
    return _ratio(sums.loss, group_counts(sums))


def worst_group(sums: Sums, info: Info) -> tuple[str, int]:
    """Name and size of the group of lowest accuracy (the first of equals); ("", 0) without any."""
    accuracy = group_accuracy(sums)
    if np.all(np.isnan(accuracy)):
        return "", 0
    worst = int(np.nanargmin(accuracy))
    return info.group_names[worst], int(group_counts(sums)[worst])


def subpopulation_counts(sums: Sums) -> Integer[np.ndarray, "E"]:
    """Examples by subpopulation; one may be in several, or in none."""
    return np.asarray(sums.subpopulations).sum(axis=(1, 2))


def subpopulation_accuracy(sums: Sums) -> Float[np.ndarray, "E"]:
    """Accuracy by subpopulation."""
    right = np.trace(np.asarray(sums.subpopulations), axis1=1, axis2=2)
    return _ratio(right, subpopulation_counts(sums))


def worst_subpopulation(sums: Sums, info: Info) -> tuple[str, int]:
    """Name and size of the subpopulation of lowest accuracy, as `worst_group` of groups."""
    accuracy = subpopulation_accuracy(sums)
    if np.all(np.isnan(accuracy)):
        return "", 0
    worst = int(np.nanargmin(accuracy))
    return info.subpopulations[worst], int(subpopulation_counts(sums)[worst])


def gap_id_ood(*, acc_id: float, acc_ood: float) -> float:
    """In-domain minus out-of-domain accuracy, of two evaluations of one net."""
    return acc_id - acc_ood


def selection_value(rule: str, metrics: dict[str, float]) -> float:
    """What is largest where the metric of a selection rule, or one named itself, is best.

    Raises UnknownName for a rule that looks at no metric, or at one of no known better side.
    """
    metric = SELECTED_BY.get(rule, rule)
    if metric not in (choices := selecting(metrics)):
        raise UnknownName(rule, "selection rule by a metric:", {*SELECTED_BY, *choices})
    return merit(metric, metrics[metric])


def selecting(metrics: Iterable[str]) -> set[str]:
    """Those metrics that may select: of which it is known which way is better."""
    return {name for name in metrics if kind(name).better}


def metrics(
    sums: Sums, info: Info, *, train_counts: Real[np.ndarray, "G"] | None = None
) -> dict[str, float]:
    """All numbers of one evaluation, by name.

    accuracy, acc_avg         over examples (the same number under both names)
    adj_acc_avg               group accuracies weighted by shares of `train_counts` (WILDS)
    acc_group/<group>         by group; mean_group_accuracy, worst_group_accuracy over them
    balanced_accuracy, worst_class_accuracy    mean and lowest recall over labels that occur
    macro_f1                  over labels that occur or are predicted (scikit-learn's default)
    acc_aligned, acc_conflicting    over examples where the shortcut gives the right answer, or not
    gap_aligned               acc_aligned - acc_conflicting
    gap_worst_group           acc_avg - worst_group_accuracy
    gap_attribute/<attribute> accuracy on the first label minus on the others (HANS, by heuristic)
    demographic_parity_difference, equalized_odds_difference, equal_opportunity_difference
                              largest minus smallest rate over attributes (Fairlearn's names): with
                              two labels the second is the positive one; with more, each in turn,
                              against the rest, and the largest difference counts
    acc_subpopulation/<name>, worst_subpopulation_accuracy    of a set that has subpopulations;
    acc_wg                    the latter under the name of WILDS, whose worst group is among these
    loss, brier_score         means over examples; Brier's original sum over labels, in [0, 2]
    ece                       top-label expected calibration error

    Where a decision (`evaluation/decision.py`) tells the labels, all but loss, brier_score and ece,
    which are of the net's probabilities, are of what it decided.

    Raises ValueError where `sums` are not those of a set with these labels, attributes and
    subpopulations, and FloatingPointError where logits were not finite: no accuracy is told of the
    other rows.
    """
    num_labels, num_attributes = len(info.label_names), len(info.attribute_names)
    if np.shape(sums.predicted) != (num_labels * num_attributes, num_labels):
        raise ValueError(
            f"counts {np.shape(sums.predicted)} are not those of {num_labels} labels "
            f"{info.label_names} and {num_attributes} attributes {info.attribute_names}"
        )
    if np.shape(sums.subpopulations)[0] != len(info.subpopulations):
        raise ValueError(
            f"counts {np.shape(sums.subpopulations)} are not those of {len(info.subpopulations)} "
            f"subpopulations {info.subpopulations}"
        )
    if lost := int(np.sum(sums.not_finite)):
        raise FloatingPointError(
            f"logits are not finite for {lost} of {lost + int(group_counts(sums).sum())} examples: "
            "the net has diverged, and its metrics are not defined"
        )
    n, correct, accuracy = group_counts(sums), _group_correct(sums), group_accuracy(sums)
    acc_avg = float(_ratio(correct.sum(), n.sum()))
    worst = _over_present(np.min, accuracy)
    confusion = np.reshape(np.asarray(sums.predicted), (num_labels, num_attributes, num_labels))
    recall, f1 = _recall_and_f1(confusion.sum(axis=1))
    aligned = np.ravel(info.aligned)
    acc_aligned = float(_ratio(correct[aligned].sum(), n[aligned].sum()))
    acc_conflicting = float(_ratio(correct[~aligned].sum(), n[~aligned].sum()))
    found = {
        "accuracy": acc_avg,
        "acc_avg": acc_avg,
        "worst_group_accuracy": worst,
        "mean_group_accuracy": _over_present(np.mean, accuracy),
        "balanced_accuracy": _over_present(np.mean, recall),
        "worst_class_accuracy": _over_present(np.min, recall),
        "macro_f1": _over_present(np.mean, f1),
        "acc_aligned": acc_aligned,
        "acc_conflicting": acc_conflicting,
        "gap_aligned": acc_aligned - acc_conflicting,
        "gap_worst_group": acc_avg - worst,
        "loss": float(_ratio(np.sum(sums.loss), n.sum())),
        "brier_score": float(_ratio(np.sum(sums.squared_error), n.sum())),
        "ece": float(_ratio(np.sum(np.abs(sums.bin_confidence - sums.bin_correct)), n.sum())),
        **_between_attributes(confusion),
    }
    if train_counts is not None:
        share = _ratio(train_counts, np.sum(train_counts))
        found["adj_acc_avg"] = float(np.sum(np.where(share == 0, 0, share * accuracy)))
    if info.subpopulations:
        within = subpopulation_accuracy(sums)
        found["worst_subpopulation_accuracy"] = found["acc_wg"] = _over_present(np.min, within)
        found |= {f"acc_subpopulation/{p}": float(a) for p, a in zip(info.subpopulations, within)}
    found |= {f"acc_group/{g}": float(a) for g, a in zip(info.group_names, accuracy)}
    return found | {
        f"gap_attribute/{name}": float(
            _ratio(right[0], total[0]) - _ratio(right[1:].sum(), total[1:].sum())
        )
        for name, right, total in zip(
            info.attribute_names,
            correct.reshape(num_labels, num_attributes).T,
            n.reshape(num_labels, num_attributes).T,
        )
    }


def _group_correct(sums: Sums) -> Integer[np.ndarray, "G"]:
    num_groups, num_labels = np.shape(sums.predicted)
    label = np.arange(num_groups) // (num_groups // num_labels)
    return np.asarray(sums.predicted)[np.arange(num_groups), label]


def _ratio(part: ArrayLike, whole: ArrayLike) -> np.ndarray:
    """part / whole in float64, NaN where there is no whole."""
    part, whole = np.broadcast_arrays(np.float64(part), np.float64(whole))
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole != 0)


def _over_present(reduce, values: Float[np.ndarray, "_"]) -> float:
    """`reduce` over the values that are not NaN; NaN where there are none."""
    present = values[~np.isnan(values)]
    return float(reduce(present)) if len(present) else float("nan")


def _recall_and_f1(
    confusion: Integer[np.ndarray, "C C"],
) -> tuple[Float[np.ndarray, "C"], Float[np.ndarray, "C"]]:
    """By label, from a confusion matrix with true labels in rows."""
    hits, true, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return _ratio(hits, true), _ratio(2 * hits, true + predicted)


def _between_attributes(confusion: Integer[np.ndarray, "C A C"]) -> dict[str, float]:
    """Fairlearn's differences, from [true label, attribute, predicted label]."""
    num_labels = len(confusion)
    worst = {}
    for positive in (1,) if num_labels == 2 else range(num_labels):
        is_positive = np.arange(num_labels) == positive
        chosen = confusion[:, :, positive]
        selection = _spread(chosen, confusion.sum(axis=2))
        true_positive = _spread(chosen[is_positive], confusion[is_positive].sum(axis=2))
        false_positive = _spread(chosen[~is_positive], confusion[~is_positive].sum(axis=2))
        for name, difference in (
            ("demographic_parity_difference", selection),
            ("equalized_odds_difference", np.maximum(true_positive, false_positive)),
            ("equal_opportunity_difference", true_positive),
        ):
            worst[name] = float(np.maximum(worst.get(name, 0.0), difference))
    return worst


def _spread(chosen: Integer[np.ndarray, "L A"], total: Integer[np.ndarray, "L A"]) -> float:
    """Largest minus smallest rate over attributes; NaN where an attribute has no rate."""
    rate = _ratio(chosen.sum(axis=0), total.sum(axis=0))
    return float(rate.max() - rate.min())
