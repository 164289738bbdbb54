"""Methods of sampling, weighting, margins, invariance and mixing: what is known without reference.

Losses of many methods are compiled as one program.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairkd_jax import registry
from fairkd_jax.debias.coral import moments
from fairkd_jax.debias.cvar_dro import worst_case
from fairkd_jax.debias.environments import mean_over_pairs, variance
from fairkd_jax.debias.lisa import choose, fits
from fairkd_jax.testing import tiny_step
from fairkd_jax.types import Outputs, Terms

KEY = jax.random.key(3)
EQUAL = (5.0,) * 6


def loss(name, z, features=None, counts=tiny_step.COUNTS, step=0, batch=None, **options):
    """The loss of a method in a step, of logits [16, 3] and features of a batch."""
    method = registry.build("debias", {"name": name, **options})
    batch = tiny_step.shown_to(method, tiny_step.make_batch() if batch is None else batch)
    params, memory = method.init(tiny_step.make_spec(method, counts), KEY)
    now = tiny_step.make_now(method, memory, counts).replace(step=step)
    outputs = {"student": Outputs(z, z if features is None else features)}
    task = method.task(outputs, batch, params, now)
    terms = Terms(task=task, distill=jnp.zeros_like(task), total=task)
    return method(terms, outputs, batch, params, now, KEY)[0]


def logits(seed=0):
    return jnp.asarray(np.random.RandomState(seed).randn(16, 3), jnp.float32)


def compiled(methods, z, **setting):
    """(loss, its gradient in the logits) of each of (name, options), by one program."""

    def one(name, options):
        return jax.value_and_grad(lambda z: loss(name, z, **setting, **options))

    return jax.jit(lambda z: [one(*method)(z) for method in methods])(z)


def even_batch():
    """Of each group two real examples."""
    batch = tiny_step.make_batch()
    group = jnp.arange(16) % 6
    batch |= {"group": group, "label": group // 2, "attribute": group % 2}
    return {**batch, "real": jnp.asarray(np.arange(16) < 12, jnp.float32)}


WITHOUT_FORCE = (
    ("erm", {}),
    ("class_balanced", {}),
    ("class_balanced", {"by": "label"}),
    ("focal", {"gamma": 0.0}),
    ("gce", {"q": 1e-4}),
    ("ldam", {"max_m": 0.0, "scale": 1.0}),
    ("logit_adjustment", {}),
    ("logit_adjustment", {"by": "group"}),
    ("cvar_dro", {"alpha": 1.0}),
    ("spectral_decoupling", {"weight": 0.0}),
    ("marg_ctrl", {"kind": "marg_log", "weight": 0.0}),
    ("vrex", {"weight": 0.0, "anneal_steps": 0}),
    ("coral", {"weight": 0.0}),
    ("mmd", {"weight": 0.0}),
    ("pgi", {"weight": 0.0}),
)


def test_on_equal_groups_without_its_force_it_is_the_mean():
    erm, *others = compiled(WITHOUT_FORCE, logits(), batch=even_batch(), counts=EQUAL)
    for (name, options), ours in zip(WITHOUT_FORCE[1:], others):
        for a, b in zip(ours, erm):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5, err_msg=f"{name} {options}")


EXTREME = (
    ("focal", {"gamma": 0.5}),
    ("focal", {"gamma": 2.0}),
    ("gce", {}),
    ("ldam", {}),
    ("logit_adjustment", {"by": "group"}),
    ("cvar_dro", {}),
    ("spectral_decoupling", {}),
    ("marg_ctrl", {}),
    ("marg_ctrl", {"kind": "marg_log"}),
    ("vrex", {}),
    ("coral", {}),
    ("mmd", {}),
    ("pgi", {}),
)


def test_extreme_logits_and_padding_of_nan_leave_the_gradient_finite():
    """Logits and features of 1e4, right for one example, wrong for the next; padding is NaN."""
    batch = tiny_step.make_batch()
    batch["real"] = jnp.asarray(np.arange(16) != 5, jnp.float32)
    right = 1e4 * jax.nn.one_hot(batch["label"], 3)
    z = jnp.where(jnp.arange(16)[:, None] % 2 == 0, right, -right).at[5].set(jnp.nan)
    found = compiled(EXTREME, z, batch=batch, step=900)
    for (name, options), (value, grad) in zip(EXTREME, found):
        kept = np.delete(np.asarray(grad), 5, axis=0)
        assert np.isfinite(value) and np.isfinite(kept).all(), f"{name} {options}"


def test_class_balanced_lies_between_none_and_inverse_frequency():
    weights = {}
    for name, options in (
        ("class_balanced", {"beta": 0.0}),
        ("class_balanced", {"beta": 0.99999}),
        ("reweight", {}),
    ):
        method = registry.build("debias", {"name": name, **options})
        spec = tiny_step.make_spec(method)
        weights[name, *options.values()] = method.init(spec, KEY)[1]["weights"]
    np.testing.assert_allclose(weights["class_balanced", 0.0], np.ones(6), rtol=1e-6)
    np.testing.assert_allclose(weights["class_balanced", 0.99999], weights["reweight",], rtol=1e-3)


def test_pairs_of_environments_by_their_variance():
    r = np.random.RandomState(0)
    values, there = r.randn(5, 3).astype(np.float32), np.float32([1, 0, 1, 1, 1])
    pairs = [*itertools.combinations(np.flatnonzero(there), 2)]
    expected = np.mean([(values[i] - values[j]) ** 2 for i, j in pairs], axis=0)
    found = mean_over_pairs(variance(jnp.asarray(values), jnp.asarray(there)), jnp.asarray(there))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_moments_are_those_of_each_environment():
    r = np.random.RandomState(1)
    x, environment = r.randn(12, 3).astype(np.float32), np.arange(12) % 3
    mean, square = moments(jnp.asarray(x), jax.nn.one_hot(environment, 3))
    for e in range(3):
        own = x[environment == e]
        np.testing.assert_allclose(mean[e], own.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(square[e], np.cov(own.T), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha, expected", [(0.01, 7.0), (0.5, 6.0), (0.75, 5.0), (1.0, 4.5)])
def test_cvar_is_the_mean_of_the_worst(alpha, expected):
    losses = jnp.asarray([3.0, 9.0, 7.0, 5.0, 3.0])
    real = jnp.asarray([1.0, 0.0, 1.0, 1.0, 1.0])  # 7 5 3 3, the largest of all is padding
    q = worst_case(losses, real, alpha)
    np.testing.assert_allclose(q.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(q @ losses, expected, rtol=1e-6)


def test_lisa_pairs_what_fits_and_leaves_the_rest():
    batch = {
        "label": jnp.asarray([0, 0, 1, 1, 0, 2]),
        "attribute": jnp.asarray([0, 1, 0, 1, 0, 2]),
        "real": jnp.asarray([1.0, 1.0, 1.0, 1.0, 0.0, 1.0]),
    }
    for intra_label, partners in ((True, {0: {1}, 2: {3}}), (False, {0: {2}, 1: {3}})):
        fit = fits(batch, jnp.asarray(intra_label))
        for draw in np.linspace(0, 0.999, 5):
            partner = np.asarray(choose(fit, jnp.full(6, draw)))
            assert all(partner[i] in allowed for i, allowed in partners.items())
            np.testing.assert_array_equal(partner[[4, 5]], [4, 5])  # padding; nothing fits
    some = jnp.asarray([[False, True, False, True, True]])
    drawn = [int(choose(jnp.tile(some, (5, 1)), jnp.full(5, u))[0]) for u in (0.1, 0.5, 0.9)]
    assert drawn == [1, 3, 4]


def test_pgi_ramps():
    run = jax.jit(lambda step: loss("pgi", logits(), step=step, ramp_share=0.5))
    first, half, whole = run(0), run(24), run(49)  # of 100 steps: 1/50, 1/2, all of the weight
    np.testing.assert_allclose((half - first) / 0.48, (whole - half) / 0.5, rtol=1e-3)
    assert run(80) == whole > half


@pytest.mark.parametrize(
    ("name", "by", "sampler"),
    [
        ("resample", "group", "group_balanced"),
        ("resample", "label", "class_balanced"),
        ("subsample", "group", "subsampled_groups"),
        ("subsample", "label", "subsampled_classes"),
    ],
)
def test_sampling_methods_set_the_sampler(name, by, sampler):
    method = registry.build("debias", {"name": name, "by": by})
    stage = method.stages(tiny_step.base())
    assert stage.config.data.sampler == sampler and not stage.inputs
    assert method.sees_attributes == (by == "group")
    assert method.stages(stage) == stage
    other = tiny_step.base().change({"data.sampler": "bag"})
    with pytest.raises(ValueError, match=rf"data.sampler = 'bag'.*{name}.*{sampler}"):
        method.stages(other)
    with pytest.raises(registry.UnknownName, match=r"colour.*group, label"):
        method.replace(by="colour").stages(tiny_step.base())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "class_balanced", "beta": 1.0}, r"beta = 1\.0"),
        ({"name": "class_balanced", "by": "colour"}, r"colour.*group, label"),
        ({"name": "logit_adjustment", "by": "colour"}, r"colour.*group, label"),
        ({"name": "focal", "gamma": -1.0}, r"gamma = -1\.0"),
        ({"name": "gce", "q": 0.0}, r"q = 0\.0"),
        ({"name": "ldam", "scale": 0.0}, r"scale = 0\.0"),
        ({"name": "cvar_dro", "alpha": 0.0}, r"alpha = 0\.0"),
        ({"name": "marg_ctrl", "kind": "sd"}, r"'sd'.*marg_log, sigma_damp"),
        ({"name": "marg_ctrl", "temperature": (1.0, 2.0)}, r"temperature = \[1\.0, 2\.0\].* 3 cl"),
        ({"name": "pgi", "ramp_share": 2.0}, r"ramp_share = 2\.0"),
        ({"name": "lisa", "p_sel": 1.5}, r"p_sel = 1\.5"),
    ],
)
def test_what_cannot_be_is_refused(spec, message):
    method = registry.build("debias", spec)
    with pytest.raises(ValueError, match=message):
        method.check(tiny_step.make_spec(method))


@pytest.mark.parametrize("name", ["irm", "vrex", "coral", "mmd", "dann", "pgi", "lisa"])
def test_one_environment_is_nothing_to_compare(name):
    method = registry.build("debias", {"name": name})
    spec = tiny_step.make_spec(method, counts=(3.0, 0.0, 2.0, 0.0, 4.0, 0.0))
    with pytest.raises(ValueError, match=rf"{name} compares .*\[9, 0\]"):
        method.check(spec)


def test_sigma_damp_rewards_no_margin_beyond_its_peak():
    """With two classes the loss is least at margin 1, where v (1 - sigmoid(v)) peaks."""
    method = registry.build("debias", {"name": "marg_ctrl", "temperature": (1.0, 3.0)})
    margin = jnp.linspace(-3, 6, 901)
    z = jnp.stack([jnp.zeros(901), margin], axis=1)
    batch = {"label": jnp.ones(901, jnp.int32)}
    losses = jax.jit(lambda z: method.task({"student": Outputs(z)}, batch, {}, None))(z)
    np.testing.assert_allclose(margin[jnp.argmin(losses)], 1.0, atol=0.011)
