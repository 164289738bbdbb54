"""A threshold for each attribute, so that rates agree over attributes (arXiv 1610.02413).

What Hardt, Price and Srebro derive from a score: thresholds on the scores of one attribute, and
mixtures of two of them, give the points under the convex hull of its ROC curve; the decision is the
best point, by `objective`, that all attributes reach alike. It is found by `ThresholdOptimizer` of
Fairlearn, and so are the points on the hulls that agree in one rate alone.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit
from sklearn.base import BaseEstimator

from fairkd_jax.evaluation.decision import Decision, Parameters
from fairkd_jax.registry import UnknownName

BALANCED = ("accuracy_score", "balanced_accuracy_score")  # all that equalized odds may go by
OBJECTIVES = (*BALANCED, "selection_rate", "true_positive_rate", "true_negative_rate")
CONSTRAINTS = {  # and what may be best under each, all by Fairlearn's names
    "equalized_odds": BALANCED,
    "demographic_parity": OBJECTIVES,
    "selection_rate_parity": OBJECTIVES,
    "false_positive_rate_parity": OBJECTIVES,
    "false_negative_rate_parity": OBJECTIVES,
    "true_positive_rate_parity": OBJECTIVES,
    "true_negative_rate_parity": OBJECTIVES,
}


@dataclasses.dataclass(frozen=True)
class Threshold(Decision):
    """Thresholds by attribute on the probability of the second of two labels, the positive one.

    It reads the attribute of every example that it decides on, in a test too, which no net does.
    Where two thresholds are mixed, it draws one of them for each example. Fairlearn's own default
    is demographic parity; ours is what the paper proposes.
    """

    constraints: str = "equalized_odds"
    objective: str = "accuracy_score"

    sees_attributes = True

    def __post_init__(self):
        if self.constraints not in CONSTRAINTS:
            raise UnknownName(self.constraints, "decide.threshold.constraints", CONSTRAINTS)
        if self.objective not in (known := CONSTRAINTS[self.constraints]):
            place = f"decide.threshold.objective under {self.constraints!r}"
            raise UnknownName(self.objective, place, known)

    def check(self, info, counts):
        """Raises ValueError unless there are two labels, of each attribute examples of both."""
        if len(info.label_names) != 2:
            raise ValueError(
                f"decision 'threshold' is between two labels; the set has {list(info.label_names)}"
            )
        if not np.all(counts):
            lacking = [name for name, count in zip(info.group_names, np.ravel(counts)) if not count]
            raise ValueError(
                "decision 'threshold' is fitted to examples of both labels with every attribute, "
                f"and the validation split has none of: {'; '.join(lacking)} (label, attribute)"
            )
        _fairlearn()

    def fit(self, log_probs, label, attribute):
        """By attribute: two thresholds, the weight of each, and what is positive without either."""
        optimizer = _fairlearn().ThresholdOptimizer(
            estimator=Scores(),
            constraints=self.constraints,
            objective=self.objective,
            predict_method="predict",
            prefit=True,
        )
        optimizer.fit(scores(log_probs), label, sensitive_features=attribute)
        found = optimizer.interpolated_thresholder_.interpolation_dict
        return {str(a): _rule(rule) for a, rule in sorted(found.items())}

    def apply(self, parameters, log_probs, attribute, chance):
        """The second label with its probability."""
        return (chance < positive(parameters, log_probs, attribute)).astype(np.int32)


def positive(
    parameters: Parameters,
    log_probs: Float[np.ndarray, "N 2"],
    attribute: Int[np.ndarray, "N"],
) -> Float[np.ndarray, "N"]:
    """The probability with which each example is given the second label."""
    found = np.zeros(len(attribute))
    for a, rule in parameters.items():
        above = scores(log_probs) > np.array(rule["thresholds"])  # [N, 2]
        mixed = rule["constant"] + above @ np.array(rule["weights"])
        found = np.where(attribute == int(a), mixed, found)
    return found


def scores(log_probs: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 1"]:
    """The second label's probability: of the difference, which float32 does not round to 1."""
    return expit(log_probs[:, 1:] - log_probs[:, :1])


class Scores(BaseEstimator):
    """The net as Fairlearn asks for it, a fitted estimator: its input is what it says."""

    def fit(self, X, y):
        """Learns nothing."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, X: Float[np.ndarray, "N 1"]) -> Float[np.ndarray, "N"]:
        """The scores."""
        return X[:, 0]


def _rule(rule: Any) -> dict[str, Any]:
    """One attribute's: positive with probability constant + weights · (score > thresholds)."""
    ignored = rule.get("p_ignore", 0.0)
    thresholds = [rule.operation0.threshold, rule.operation1.threshold]
    return {
        "thresholds": np.clip(thresholds, -1, 2).tolist(),  # JSON has no infinite ones
        "weights": [(1 - ignored) * float(p) for p in (rule.p0, rule.p1)],
        "constant": float(ignored * rule.get("prediction_constant", 0.0)),
    }


def _fairlearn() -> Any:
    try:
        from fairlearn import postprocessing
    except ImportError as error:
        raise ValueError(
            "decision 'threshold' is found by Fairlearn, which is not installed: "
            "pip install 'fairkd_jax[fairness]'"
        ) from error
    return postprocessing
