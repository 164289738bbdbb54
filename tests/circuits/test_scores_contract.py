"""Every file in circuits/scores/ keeps its contract; what is exact on a linear net."""

import numpy as np
import pytest

from fairkd_jax import registry
from fairkd_jax.circuits.metric import METRICS, metric
from fairkd_jax.testing import scores
from fairkd_jax.testing.scores import *  # noqa: F403


@pytest.fixture(params=registry.available("scores"), scope="module")
def plugin(request):
    return {"name": request.param}


def test_the_first_order_is_exact_on_a_linear_net(found):
    """Of whatever scores each site by itself: acdc, which does not, tries most sites the same."""
    for asked, scored in found.values():
        exact = registry.build("scores", {"name": "exact"}).scores(asked)
        if scored.kept is None:
            np.testing.assert_allclose(scored.by_example, exact.by_example, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_is_refused():
    for name, options, message in (
        ("eap_ig", {"steps": 0}, "steps = 0"),
        ("eap_ig", {"end": "clena"}, "'clean'"),
        ("acdc", {"threshold": -1.0}, "threshold = -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            registry.build("scores", {"name": name, **options})
    with pytest.raises(ValueError, match="'kl' are 0"):
        registry.build("scores", {"name": "attribution"}).check("kl")
    registry.build("scores", {"name": "eap_ig"}).check("kl")
    with pytest.raises(ValueError, match=r"unknown ablation .*'zreo'.*'zero'"):
        scores.problem("nodes", "zreo")


def test_classes_that_count_as_one_label_are_one():
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    label = np.array([0, 1, 1, 0, 1])
    merged = np.stack([logits[:, 0], np.logaddexp(logits[:, 1], logits[:, 2])], axis=1)
    for name, plain in METRICS.items():
        assert metric(name, (0, 1, 2)) is plain
        found = metric(name, (0, 1, 1))(logits, 2 * logits, label)
        twice = np.stack([2 * logits[:, 0], np.logaddexp(*(2 * logits[:, 1:]).T)], axis=1)
        np.testing.assert_allclose(found, plain(merged, twice, label), rtol=1e-5, atol=1e-6)
