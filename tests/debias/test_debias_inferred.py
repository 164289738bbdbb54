"""What is inferred in stages of their own, where the answer is known without any reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairkd_jax import registry
from fairkd_jax.data.samplers import NEVER, draw_as_told
from fairkd_jax.debias.cnc import contrastive
from fairkd_jax.debias.infer.balanced_logistic import BalancedLogistic, fitted, standardiser
from fairkd_jax.debias.infer.clusters import clustered, sampling_weights
from fairkd_jax.debias.infer.environments import split
from fairkd_jax.debias.infer.weighted_head import descend, weights
from fairkd_jax.debias.inference import columns_of
from fairkd_jax.testing import tiny_step

pytestmark = pytest.mark.quick


def rows_of(draw, steps):
    return np.concatenate([draw.rows(step) for step in steps])


def test_a_pool_that_stays_is_gone_through_before_an_example_comes_again():
    first = np.where(np.arange(20) % 4 == 0, NEVER, 0)
    draw = draw_as_told({"first": first}, seed=1, batch_size=5)
    assert draw.epoch == 15
    np.testing.assert_array_equal(np.sort(rows_of(draw, range(3))), np.flatnonzero(first == 0))


def test_examples_are_drawn_by_their_weight_once_they_may_be():
    weight, first = np.array([1.0, 0.0, 3.0, 4.0]), np.array([0, 0, 0, 100])
    draw = draw_as_told({"weight": weight, "first": first}, seed=1, batch_size=100)
    for steps, share in ((range(100), [1 / 4, 0, 3 / 4, 0]), (range(100, 200), weight / 8)):
        found = np.bincount(rows_of(draw, steps), minlength=4) / 10_000
        np.testing.assert_allclose(found, share, atol=0.015)
    np.testing.assert_array_equal(draw.rows(7), draw.rows(7))
    with pytest.raises(ValueError, match="none may be drawn in the first step"):
        draw_as_told({"first": first + 1}, seed=1, batch_size=4)


def test_data_expand_from_a_balanced_subset():
    infer = registry.build(
        "infer", {"name": "expanding", "batch_size": 4, "warmup_epochs": 2, "every_epochs": 1}
    )
    examples = tiny_step.examples(75)
    first = columns_of(infer, examples, {}, seed=0)["first"]
    begins = np.bincount(examples.columns["group"][first == 0])
    assert set(begins) == {min(np.bincount(examples.columns["group"]))}
    size, steps = begins.sum(), np.unique(first)
    assert steps[1] == 2 * -(-size // 4)
    assert [np.count_nonzero(first == s) for s in steps[1:]] == [10] * ((75 - size) // 10) + [
        n for n in [(75 - size) % 10] if n
    ]


def test_environments_part_examples_by_the_sign_of_their_slope():
    slopes = np.linspace(-1, 1, 24).astype(np.float32)
    start = np.random.RandomState(0).randn(24).astype(np.float32)
    found = np.asarray(split(*map(jnp.asarray, (start, slopes)), jnp.float32(0.1), 2000)) > 0
    assert (found == (slopes > 0)).all() or (found == (slopes < 0)).all()


def test_eiil_wants_a_trainer_that_looks_at_environments():
    for trainer in ({"name": "erm"}, {"name": "dfr"}):
        method = registry.build("debias", {"name": "eiil", "trainer": trainer})
        with pytest.raises(ValueError, match=r"eiil: trainer = .*would have no effect"):
            method.stages(tiny_step.base())
    inferred = registry.build("debias", {"name": "eiil", "trainer": {"name": "pde"}})
    stage = inferred.stages(tiny_step.base())
    assert {*stage.inputs} == {"attribute", "draw"}
    assert stage.inputs["draw"].inputs["attribute"] == stage.inputs["attribute"]


def test_with_power_1_clusters_of_a_class_are_drawn_alike():
    r = np.random.RandomState(0)
    label, cluster = r.randint(0, 2, 60), r.randint(0, 3, 60)
    weight = sampling_weights(cluster, label, np.array([1.0, 2.0]))
    np.testing.assert_allclose(np.bincount(label, weight), 1)
    np.testing.assert_allclose(np.bincount(cluster[label == 0], weight[label == 0]), 1 / 3)
    sizes = np.bincount(cluster[label == 1])
    drawn = np.bincount(cluster[label == 1], weight[label == 1])
    np.testing.assert_allclose(drawn * sizes, (drawn * sizes)[0])  # n^-2 of n examples each


def test_the_silhouette_finds_how_many_clusters_there_are():
    centres = np.array([[0.0, 0], [9, 0], [0, 9]])
    answers = np.random.RandomState(0).randn(90, 2) * 0.1 + np.repeat(centres, 30, axis=0)
    found, apart = clustered(answers, range(2, 6), seed=0)
    assert len(np.unique(found)) == 3 and apart > 0.9
    found, apart = clustered(np.ones((9, 2)), range(2, 6), seed=0)
    assert not found.any() and apart == 1


@pytest.mark.parametrize("classes", [2, 3])
def test_a_fitted_head_decides_on_features_as_the_solver_on_scaled_ones(classes):
    r = np.random.RandomState(classes)
    x, label = r.randn(90, 4) * [1, 5, 0.1, 2] + 3, r.randint(0, classes, 90)
    x[:, 0] += label
    mean, deviation = scaled = standardiser(x)
    z, rows = (x - mean) / deviation, np.arange(90)
    head = BalancedLogistic().fit(x, label, [rows], scaled, classes, 1.0)
    w, b = fitted(z, label, classes, 1.0, 1e-4)
    logits, values = x @ head["head/kernel"] + head["head/bias"], z @ w.T + b
    if classes == 2:
        values = values / 2 * [-1, 1]
    np.testing.assert_allclose(logits, values, atol=1e-9)


def test_afr_without_its_force_is_erm_and_a_strong_penalty_holds_the_head():
    r = np.random.RandomState(0)
    logits, label = jnp.asarray(r.randn(12, 3), jnp.float32), jnp.arange(12) % 3
    _, weight = weights(logits, label, jnp.float32(0), rebalance=False)
    np.testing.assert_allclose(weight, 1 / 12, rtol=1e-6)
    _, rare = weights(logits, jnp.minimum(label, 1), jnp.float32(0), rebalance=True)
    np.testing.assert_allclose(jax.ops.segment_sum(rare, jnp.minimum(label, 1), 2), 0.5, rtol=1e-5)
    head = {"head/kernel": jnp.asarray(r.randn(4, 3), jnp.float32), "head/bias": jnp.zeros(3)}
    features, numbers = jnp.asarray(r.randn(12, 4), jnp.float32), map(jnp.float32, (1e-4, 1e3, 1.0))
    held = descend(head, features, label, weight, *numbers, steps=50)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), held, head)


def test_contrast_is_between_what_the_first_net_confuses():
    r = np.random.RandomState(0)
    features = jnp.asarray(r.randn(8, 4), jnp.float32)
    label, answer, real = jnp.arange(8) % 2, jnp.arange(8) // 4 % 2, jnp.ones(8)
    told = lambda *which: jax.jit(contrastive)(features, *which, real, jnp.float32(0.1))  # noqa: E731
    lost, anchor = told(label, answer)
    assert anchor.all() and (lost > 0).all()
    np.testing.assert_allclose(lost, told(label, 1 - answer)[0], rtol=1e-6)
    for one_sided in (label, jnp.zeros(8, int)):  # no mistakes; one answer to all
        assert not told(label, one_sided)[1].any()
