"""Losses that are told a bias, where the answer is known without a reference; sources of bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairkd_jax import registry
from fairkd_jax.data.samplers import NEVER
from fairkd_jax.debias import biased
from fairkd_jax.testing import tiny_step
from fairkd_jax.testing.bias import base

pytestmark = pytest.mark.quick

LOSSES = ("poe", "learned_mixin", "dfl", "bias_reweight", "rubi", "confidence_regularisation")
TWO = ({"name": "weak_learner"}, {"name": "overlap"})
KEY = jax.random.key(3)


def build(name, **options):
    return registry.build("debias", {"name": name, **options})


def run(method, tables, step=0, padding=0):
    """((loss, (memory, metrics)), gradients) of a step on a batch with these log-probabilities."""
    params, now = tiny_step.start(method)
    batch, tables = tiny_step.make_batch(), {"erm": logits(1)} | tables  # alike: compiled once
    batch["tables"] = {name: {"log_probs": jax.nn.log_softmax(x)} for name, x in tables.items()}
    batch["real"] = batch["real"].at[16 - padding :].set(0)
    return tiny_step.run(method, params, now.replace(step=jnp.int32(step)), batch, KEY)


def logits(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(scale * rng.normal(size=(16, tiny_step.CLASSES)), jnp.float32)


def close(ours, theirs, times=1.0):
    for a, b in zip(jax.tree.leaves(ours[1]["nets"]), jax.tree.leaves(theirs[1]["nets"])):
        np.testing.assert_allclose(a, times * b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["poe", "learned_mixin", "dfl", "bias_reweight"])
def test_a_bias_that_knows_nothing_leaves_the_mean(name):
    nothing = {"bias": jnp.zeros((16, tiny_step.CLASSES))}
    times = (2 / 3) ** 2 if name == "dfl" else 1.0  # gamma 2
    close(run(build(name), nothing), run(build("erm"), nothing), times)


@pytest.mark.parametrize("name", LOSSES)
def test_sure_biases_and_extreme_logits_are_finite_whatever_padding_holds(name):
    label = tiny_step.make_batch()["label"]
    sure = 1e4 * jax.nn.one_hot(label, tiny_step.CLASSES)
    for bias in (sure, -sure, logits(0, 1e4)):
        told = {"bias": bias, "erm": logits(1, 1e4)}
        found = run(build(name), {k: x.at[-2:].set(jnp.nan) for k, x in told.items()}, padding=2)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


def test_the_weights_of_dfl_are_those_of_reweighting_but_for_what_they_are_divided_by():
    bias = {"bias": logits(0, 3.0)}
    reweighted = run(build("bias_reweight"), bias)
    share = reweighted[0][1][1]["mean_weight"]
    close(run(build("dfl", gamma=1.0), bias), reweighted, share)


def test_several_sources_are_a_product_of_experts_or_a_mean():
    first, second = (jax.nn.log_softmax(logits(seed)) for seed in (0, 1))
    both = {"bias": first, "bias1": second}
    close(run(build("poe", bias=TWO), both), run(build("poe"), {"bias": first + second}))
    label, found = tiny_step.make_batch()["label"], {}
    batch = {"label": label, "real": jnp.ones(16)}
    batch["tables"] = {name: {"log_probs": x} for name, x in both.items()}
    for join in ("mean", "product"):
        found[join] = 1 - biased.doubt(build("dfl", bias=TWO), batch, join=join)
    p, q = (jnp.exp(x)[np.arange(16), label] for x in both.values())
    np.testing.assert_allclose(found["mean"], (p + q) / 2, rtol=1e-4)
    np.testing.assert_allclose(found["product"], p * q, rtol=1e-4, atol=1e-6)


def test_without_a_bias_confidence_regularisation_is_distillation():
    """Where the bias is wrong for sure, the targets are the teacher's own answers."""
    label = tiny_step.make_batch()["label"]
    teacher, wrong = logits(1), -50.0 * jax.nn.one_hot(label, tiny_step.CLASSES)
    method, batch = build("confidence_regularisation"), tiny_step.make_batch()
    said = {"bias": wrong, "erm": teacher}
    batch["tables"] = {k: {"log_probs": jax.nn.log_softmax(v)} for k, v in said.items()}
    np.testing.assert_allclose(method.targets(batch), jax.nn.softmax(teacher), rtol=1e-5)


@pytest.mark.parametrize("name", ["poe", "bias_reweight", "confidence_regularisation"])
def test_annealing_is_linear_over_the_run(name):
    method = build(name, anneal_to=0.8)
    _, now = tiny_step.start(method)
    steps = [biased.annealed(0.8, now.replace(step=jnp.int32(k))) for k in (0, 50, 100)]
    np.testing.assert_allclose(steps, [1.0, 0.9, 0.8], rtol=1e-6)
    tables = {"bias": logits(0)}
    close(run(method, tables), run(build(name), tables))
    ended, fixed = run(method, tables, step=100), run(build(name), tables)
    assert not np.allclose(ended[0][0], fixed[0][0], rtol=1e-4)
    if name == "poe":
        close(ended, run(build(name, exponent=0.8), tables))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("poe", {"anneal_to": 1.2}, "poe: anneal_to = 1.2"),
        ("bias_reweight", {"anneal_to": -0.1}, "bias_reweight: anneal_to = -0.1"),
        ("confidence_regularisation", {"anneal_to": 2.0}, "regularisation: anneal_to = 2"),
        ("dfl", {"gamma": -1.0}, "dfl: gamma = -1"),
        ("dfl", {"join": "sum"}, "join of dfl: 'sum'.*mean, product"),
    ],
)
def test_what_cannot_be_is_refused(name, options, message):
    method = build(name, **options)
    with pytest.raises(ValueError, match=message):
        method.check(tiny_step.make_spec(method))


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ({"name": "overlop"}, "bias plugin 'overlop'.*Did you mean 'overlap'"),
        ([{"name": "overlap"}, {"name": "none"}], "bias plugin 'none'.*hypothesis_only"),
        ([], r"bias = \(\): expected a source.*hypothesis_only"),
        ({"share": 0.3}, "needs a 'name'"),
        ({"name": "weak_learner", "share": 0.0}, "'weak_learner': share = 0.0"),
        ({"name": "self_debias", "examples": 0}, "'self_debias': examples = 0"),
    ],
)
def test_a_source_that_cannot_be_is_told_before_any_compute(bias, message):
    with pytest.raises(ValueError, match=message):
        build("poe", bias=bias).stages(base())


def net_of(source, **changes):
    """The config of the net that a source trains."""
    return registry.build("bias", source).stage(base(**changes)).inputs["net"].config


def test_a_few_examples_are_seen_for_no_more_steps_than_the_base_takes():
    few = {"name": "self_debias", "examples": 16}
    config = net_of(few, **{"data.padding": "bucket", "data.sampler": "class_balanced"})
    assert (config.data.sampler, config.data.padding) == ("natural", "longest")
    assert config.train.steps == 10 and net_of(few, **{"train.steps": 4}).train.steps == 4
    columns = registry.build("infer", {"name": "few", "count": 7})
    first = columns.columns(tiny_step.examples(16), {}, seed=1)["first"]
    assert np.count_nonzero(first == 0) == 7 and np.count_nonzero(first == NEVER) == 9


def test_a_net_of_the_hypothesis_alone_keeps_the_words_before_it():
    def prompt(source, **changes):
        return net_of(source, **changes).data.views["wordpiece"]["prompt"]

    alone, view = {"name": "hypothesis_only"}, "data.views.wordpiece.prompt"
    words = {view: "premise: {premise} so {{a}}: {hypothesis}"}
    assert prompt(alone) == "{hypothesis}"
    assert prompt(alone, **words) == "so {{a}}: {hypothesis}"
    assert prompt(alone | {"column": "premise"}, **words) == "premise: {premise}"
    with pytest.raises(ValueError, match=r"data\.views\.image .*has no prompt"):
        registry.build("bias", alone).stage(tiny_step.base())


def test_confidence_regularisation_shares_the_net_of_plain_erm():
    stage = build("confidence_regularisation").stages(base())
    plain = base(**{"debias": {"name": "erm"}})
    assert stage.inputs["erm"].inputs["net"].identity == plain.identity
