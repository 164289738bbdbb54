"""Thresholds by attribute: Fairlearn's own probabilities, and rates that agree."""

import sys

import numpy as np
import pytest
from fairlearn.postprocessing import ThresholdOptimizer

from fairkd_jax import registry
from fairkd_jax.evaluation import decision
from fairkd_jax.evaluation.decide import threshold
from fairkd_jax.testing.decide import ATTRIBUTES, LABELS, examples, info, parameters_of

EVERY = [(c, o) for c, objectives in threshold.CONSTRAINTS.items() for o in objectives]


class Answers(threshold.BaseEstimator):
    """A classifier whose second column is what is known: what Fairlearn asks of any other."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return X


@pytest.mark.parametrize("constraints, objective", EVERY)
def test_its_probabilities_are_those_of_fairlearn(constraints, objective):
    rows, others = examples(), examples(1)
    theirs = ThresholdOptimizer(
        estimator=Answers(),
        constraints=constraints,
        objective=objective,
        predict_method="predict_proba",
    )
    probs, new = (np.exp(np.float64(some["log_probs"])) for some in (rows, others))
    theirs.fit(probs, rows["label"], sensitive_features=rows["attribute"])
    want = theirs._pmf_predict(new, sensitive_features=others["attribute"])[:, 1]
    parameters = parameters_of(threshold.Threshold(constraints, objective), rows)
    got = threshold.positive(parameters, np.float64(others["log_probs"]), others["attribute"])
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_odds_are_equal_on_what_it_is_fitted_to():
    rows = examples()
    parameters = parameters_of(threshold.Threshold(), rows)
    chosen = threshold.positive(parameters, np.float64(rows["log_probs"]), rows["attribute"])
    for label in range(LABELS):
        rates = [
            chosen[(rows["label"] == label) & (rows["attribute"] == a)].mean()
            for a in range(ATTRIBUTES)
        ]
        np.testing.assert_allclose(rates, rates[0], atol=1e-9)
    drawn = [decision.decided(threshold.Threshold(), parameters, rows, seed) for seed in range(200)]
    mixed = (chosen > 0.2) & (chosen < 0.8)
    error = np.abs(np.mean(drawn, axis=0) - chosen)
    assert mixed.any() and error.max() < 0.15  # four standard deviations


def test_what_it_cannot_be_fitted_to_is_told_before_any_compute(monkeypatch):
    method, counts = threshold.Threshold(), np.full((LABELS, ATTRIBUTES), 5)
    with pytest.raises(ValueError, match=r"two labels; the set has \['u', 'v', 'w'\]"):
        method.check(info(labels=3), np.full((3, ATTRIBUTES), 5))
    counts[1, 2] = 0
    with pytest.raises(ValueError, match=r"none of: v, c \(label, attribute\)"):
        method.check(info(), counts)
    for wrong, message in (
        ({"constraints": "equal_odds"}, r"'equal_odds'. Did you mean 'equalized_odds'"),
        ({"objective": "selection_rate"}, r"under 'equalized_odds' 'selection_rate'.*balanced"),
    ):
        with pytest.raises(registry.UnknownName, match=message):
            registry.build("decide", {"name": "threshold", **wrong})
    monkeypatch.setitem(sys.modules, "fairlearn", None)
    with pytest.raises(ValueError, match=r"not installed: pip install 'fairkd_jax\[fairness\]'"):
        method.check(info(), np.full((LABELS, ATTRIBUTES), 5))
