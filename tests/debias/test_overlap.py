"""Word overlap of pairs, and the probabilities of a regression on it."""

import dataclasses

import numpy as np
import pytest

from fairkd_jax import registry
from fairkd_jax.debias import inference
from fairkd_jax.debias.infer.overlap import Overlap, features
from fairkd_jax.testing import tiny_step

pytestmark = pytest.mark.quick
PREMISE = "The doctor near the actor saw the judge."


@pytest.mark.parametrize(
    ("hypothesis", "found"),
    [
        ("The judge saw the doctor.", (1, 1, 1, 0, np.log(3))),
        ("the actor saw the judge", (1, 1, 1, 1, np.log(3))),
        ("The judge danced.", (0, 1, 2 / 3, 0, np.log(5))),
        ("A judge danced, and the doctor saw the actor and another judge", (0, 0, 7 / 12, 0, 0)),
        ("?!", (0, 0, 0, 0, np.log(8))),
    ],
)
def test_features_of_a_pair(hypothesis, found):
    np.testing.assert_allclose(features(PREMISE, hypothesis), found)


def test_other_labels_have_equal_parts_and_sure_answers_are_finite():
    examples = tiny_step.examples(12)
    found = Overlap()._spread(np.array([-1e4, 0.0, 1e4]), examples)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
    np.testing.assert_array_equal(found[:, 1], found[:, 2])
    np.testing.assert_allclose(np.exp(found[1]), [0.5, 0.25, 0.25])


def test_what_it_cannot_learn_from_is_told():
    examples = tiny_step.examples(12)
    with pytest.raises(registry.UnknownName, match=r"'entailed'.*Did you mean 'entailment'"):
        inference.check(Overlap("entailed"), examples, {})
    with pytest.raises(ValueError, match="inverse_penalty = 0"):
        registry.build("infer", {"name": "overlap", "inverse_penalty": 0.0})
    same = {"label": np.zeros_like(examples.columns["label"])}
    examples = dataclasses.replace(examples, columns=examples.columns | same)
    with pytest.raises(ValueError, match="all or no example has the label 'entailment'"):
        inference.check(Overlap(), examples, {})
