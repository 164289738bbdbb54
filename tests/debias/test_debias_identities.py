"""Debiasing methods where the answer is known without any reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairkd_jax import registry
from fairkd_jax.debias.dann import DANN, reverse_gradient
from fairkd_jax.debias.irm import half_of_environment
from fairkd_jax.debias.mixup import permute_real
from fairkd_jax.testing import tiny_step
from fairkd_jax.types import Outputs

KEY = jax.random.key(3)
EQUAL = (5.0,) * 6


def run(name, batch=None, counts=EQUAL, **options):
    """((loss, (memory, metrics)), gradients) of one step from the usual start."""
    method = registry.build("debias", {"name": name, **options})
    params, now = tiny_step.start(method, counts=counts)
    batch = tiny_step.make_batch() if batch is None else batch
    return tiny_step.run(method, params, now, tiny_step.shown_to(method, batch), KEY)


def student(result):
    return [result[0][0], *jax.tree.leaves(result[1]["nets"]["student"])]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("reweight", {}),
        ("reweight", {"power": 0.5}),
        ("reweight", {"by": "label"}),
        ("reweight", {"power": 0.0}),
        ("group_dro", {"step_size": 0.0}),
        ("irm", {"weight": 0.0, "anneal_steps": 0}),
        ("jtt", {"factor": 1.0}),
        ("poe", {"exponent": 0.0}),
        ("dfr", {}),
    ],
)
def test_on_equal_groups_without_its_force_it_is_the_mean(name, options):
    batch = tiny_step.make_batch()
    batch["real"] = jnp.asarray(np.arange(16) < 12, jnp.float32)
    batch["group"] = jnp.asarray(np.arange(16) % 6, jnp.int32)  # two real examples of each
    batch["label"], batch["attribute"] = batch["group"] // 2, batch["group"] % 2
    for ours, erm in zip(student(run(name, batch, **options)), student(run("erm", batch))):
        np.testing.assert_allclose(ours, erm, rtol=1e-5, atol=1e-7)


def test_reweight_gives_each_group_the_same_total_weight():
    method = registry.build("debias", {"name": "reweight"})
    memory = tiny_step.start(method)[1].memory
    share = memory["weights"] * np.array(tiny_step.COUNTS)
    np.testing.assert_allclose(share, np.full(6, share[0]), rtol=1e-6)
    np.testing.assert_allclose(memory["weights"].sum(), 6, rtol=1e-6)


def test_reweight_refuses_an_unknown_unit():
    method = registry.build("debias", {"name": "reweight", "by": "colour"})
    with pytest.raises(registry.UnknownName, match=r"colour.*group, label"):
        method.check(tiny_step.make_spec(method))


def test_group_dro_moves_towards_the_worst_group_and_leaves_absent_ones():
    batch = tiny_step.make_batch()
    absent = batch["group"] == 3
    batch["real"] = jnp.where(absent, 0.0, 1.0)
    (_, (memory, _)), _ = run("group_dro", batch, step_size=0.5, adjustment=3.0)
    q = np.asarray(memory["q"])
    np.testing.assert_allclose(q.sum(), 1, rtol=1e-6)
    assert q.argmin() == 3 and (np.delete(q, 3) > q[3]).all()


def test_group_dro_survives_a_huge_loss():
    batch = tiny_step.make_batch()
    batch["views"]["plain"]["x"] *= 1e4
    method = registry.build("debias", {"name": "group_dro", "step_size": 1e4})
    params, now = tiny_step.start(method, counts=EQUAL)
    params["nets"]["student"]["head"] *= 1e3
    (loss, (memory, _)), _ = tiny_step.run(method, params, now, batch, KEY)
    assert np.isfinite(loss) and np.isfinite(memory["q"]).all()


@pytest.mark.parametrize("name", ["group_dro", "dfr"])
def test_group_methods_refuse_an_empty_group(name):
    method = registry.build("debias", {"name": name})
    with pytest.raises(ValueError, match=rf"{name} needs .* groups \[4\]"):
        method.check(tiny_step.make_spec(method, counts=(3.0, 1.0, 2.0, 4.0, 0.0, 5.0)))


def test_lff_weighs_what_only_the_biased_net_fails_on():
    """Where both nets agree all weights are one half; the biased net learns by its own loss."""
    method = registry.build("debias", {"name": "lff"})
    params, now = tiny_step.start(method)
    params["nets"]["biased"] = params["nets"]["student"]
    batch = tiny_step.shown_to(method, tiny_step.make_batch())
    (loss, (after, metrics)), grads = tiny_step.run(method, params, now, batch, KEY)
    np.testing.assert_allclose(metrics["mean_weight"], 0.5, rtol=1e-5)
    erm = run("erm", batch)
    params_erm, _ = tiny_step.start(registry.build("debias", {"name": "erm"}))
    np.testing.assert_array_equal(
        params_erm["nets"]["student"]["body"], params["nets"]["student"]["body"]
    )
    np.testing.assert_allclose(loss - metrics["biased_loss"], 0.5 * erm[0][0], rtol=1e-5)
    np.testing.assert_allclose(
        grads["nets"]["student"]["body"],
        0.5 * erm[1]["nets"]["student"]["body"],
        rtol=1e-4,
        atol=1e-6,
    )
    visited = np.zeros(tiny_step.EXAMPLES, bool)
    visited[np.asarray(batch["id"])] = True
    np.testing.assert_array_equal(np.asarray(after["label"]) >= 0, visited)
    assert (np.asarray(after["student"])[~visited] == 0).all()


def test_lff_refuses_an_unknown_size():
    method = registry.build("debias", {"name": "lff"})
    with pytest.raises(ValueError, match="num_examples = 0"):
        method.check(tiny_step.make_spec(method).replace(num_examples=0))
    with pytest.raises(ValueError, match=r"q = 0\.0"):
        method.replace(q=0.0).check(tiny_step.make_spec(method))


def test_gradient_reversal():
    x, weights = jnp.array([1.0, -2.0]), jnp.array([3.0, 0.5])
    value, grad = jax.value_and_grad(lambda x: reverse_gradient(x, jnp.asarray(0.3)) @ weights)(x)
    np.testing.assert_allclose(value, x @ weights)
    np.testing.assert_allclose(grad, -0.3 * weights, rtol=1e-6)


def test_dann_without_strength_trains_a_probe_beside_erm():
    ours, erm = run("dann", strength=0.0), run("erm")
    for a, b in zip(student(ours)[1:], student(erm)[1:]):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert any(np.any(g != 0) for g in jax.tree.leaves(ours[1]["debias"]))


def test_dann_hurts_what_the_discriminator_can_read():
    """A step of the features alone, along the gradient, raises the discriminator's loss."""
    method = DANN(strength=1.0, depth=1)
    params, now = tiny_step.start(method)
    batch = tiny_step.make_batch()
    (_, (_, before)), grads = tiny_step.run(method, params, now, batch, KEY)
    (_, _), plain = tiny_step.run(method.replace(strength=0.0), params, now, batch, KEY)
    moved = jax.tree.map(
        lambda w, g, p: w - 0.05 * (g - p),
        params["nets"]["student"]["body"],
        grads["nets"]["student"]["body"],
        plain["nets"]["student"]["body"],
    )
    params["nets"]["student"]["body"] = moved
    (_, (_, after)), _ = tiny_step.run(method, params, now, batch, KEY)
    assert after["discriminator_loss"] > before["discriminator_loss"]


def test_irm_anneals():
    method = registry.build("debias", {"name": "irm", "weight": 7.0, "anneal_steps": 2})
    params, now = tiny_step.start(method)
    weights = []
    for _ in range(4):
        (_, (memory, metrics)), _ = tiny_step.run(method, params, now, tiny_step.make_batch(), KEY)
        now = tiny_step.after(now, memory)
        weights.append(float(metrics["penalty_weight"]))
    assert weights == [1.0, 1.0, 7.0, 7.0]


def test_environment_halves_alternate_within_each_environment():
    environment = jnp.array([0, 1, 0, 0, 1, 1, 0])
    real = jnp.array([1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    half = np.asarray(half_of_environment(environment, real, 2))
    np.testing.assert_array_equal(half[[0, 2, 6]], [0, 1, 0])
    np.testing.assert_array_equal(half[[1, 4, 5]], [0, 1, 0])


def test_mixup_permutes_the_real_rows():
    real = jnp.array([0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0])
    seen = set()
    for seed in range(20):
        partner = np.asarray(permute_real(real, jax.random.key(seed)))
        np.testing.assert_array_equal(np.sort(partner[real > 0]), np.flatnonzero(real))
        np.testing.assert_array_equal(partner[real == 0], np.flatnonzero(real == 0))
        seen.add(tuple(partner))
    assert len(seen) > 10


def test_mixup_mixes_labels_as_it_mixes_inputs():
    method = registry.build("debias", {"name": "mixup", "alpha": 1.0})
    _, now = tiny_step.start(method)
    batch, edits = method.prepare(tiny_step.make_batch(), now, KEY)
    mix = edits["input"]
    assert ((mix.weight >= 0) & (mix.weight <= 1)).all() and (mix.weight == mix.weight[0]).all()
    np.testing.assert_array_equal(batch["partner_label"], batch["label"][mix.partner])
    np.testing.assert_array_equal(batch["label_weight"], mix.weight)


def test_mixup_refuses_a_number_that_is_no_beta():
    method = registry.build("debias", {"name": "mixup", "alpha": 0.0})
    with pytest.raises(ValueError, match=r"alpha = 0\.0"):
        method.check(tiny_step.make_spec(method))


def test_poe_ignores_what_the_bias_model_knows():
    """Where the bias model is sure and right, the net's gradient vanishes."""
    batch = tiny_step.make_batch()
    sure = 50.0 * jax.nn.one_hot(batch["label"], tiny_step.CLASSES)
    batch["tables"] = {"bias": {"log_probs": jax.nn.log_softmax(sure)}}
    (loss, _), grads = run("poe", batch)
    assert loss < 1e-6
    assert max(np.abs(g).max() for g in jax.tree.leaves(grads)) < 1e-6


def test_jtt_refuses_an_empty_error_set():
    method = registry.build("debias", {"name": "jtt"})
    method.check_tables({"mistakes": {"mistake": np.array([0, 1, 0])}})
    with pytest.raises(ValueError, match="right on all 3 training examples"):
        method.check_tables({"mistakes": {"mistake": np.zeros(3)}})


@pytest.mark.parametrize("name", ["erm", "poe"])
def test_the_task_of_a_mixed_example_is_of_both_labels_by_share(name):
    method = registry.build("debias", {"name": name})
    batch = tiny_step.shown_to(method, tiny_step.make_batch())
    logits = jnp.asarray(np.random.RandomState(0).randn(16, 3), jnp.float32)
    outputs, now = {"student": Outputs(logits)}, tiny_step.start(method)[1]
    partner, weight = jnp.roll(batch["label"], 1), jnp.linspace(0.5, 1.0, 16)
    own, other = (
        method.task(outputs, batch | {"label": label}, {}, now)
        for label in (batch["label"], partner)
    )
    mixed = method.task(
        outputs, batch | {"partner_label": partner, "label_weight": weight}, {}, now
    )
    np.testing.assert_allclose(mixed, weight * own + (1 - weight) * other, rtol=1e-5)
