"""Every family in models/ keeps the contract; and what a Net does whatever its family."""

import functools
import re

import jax
import numpy as np
import pytest
from flax import nnx

from fairkd_jax import registry
from fairkd_jax.models.net import Architecture, Net, make_net
from fairkd_jax.models.tape import Tape
from fairkd_jax.registry import UnknownName
from fairkd_jax.testing.models import *  # noqa: F403
from fairkd_jax.testing.models import FACTS, C, make_batch
from fairkd_jax.types import Outputs

VOCABULARY = (  # see tape.py; a family of its own adds prefixes
    r"input|(enc/|dec/)?embed|stem|features|lm_logits|(enc|dec)/out|stage\d+/block\d+/(branch_)?out"
    r"|(enc/|dec/)?block\d\d/((attn|cross)_(query|key|value|scores|probs|out)|(cross_)?head_out"
    r"|mlp_out|out)"
)


@pytest.fixture(scope="module", params=registry.available("models"))
def plugin(request):
    return {"name": request.param}


def test_intermediates_have_names_of_one_vocabulary(case):
    net, _, batch = case
    names = net.shapes(batch, save=".*").taps
    assert all(re.fullmatch(VOCABULARY, name) for name in names), list(names)


def test_training_differs_from_evaluation(case):
    net, variables, batch = case
    key = jax.random.key(3)
    trained, scored = (net.apply(variables, batch, train=t, key=key)[0] for t in (True, False))
    assert np.any(trained.logits != scored.logits)


class _Counts(nnx.Module):
    def __init__(self, rngs):
        self.head = nnx.Linear(2, 2, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)  # hides a key and a counter

    def __call__(self, inputs, tape):
        x = self.head(inputs["pixels"])
        return Outputs(logits=x, features=x)


class _Hidden(Architecture):
    view, presets = "image", {}

    def fit(self, facts):
        return self

    def module(self, num_classes, rngs):
        return _Counts(rngs)


def tiny(family, **options):
    return make_net({"name": family, "preset": "tiny"} | options, C, FACTS)


DEEP = {  # by family: rates of stochastic depth in the order of the pass, of 0.8 at the last block
    "bert": [0.4, 0.4, 0.8, 0.8],
    "vit": [0.4, 0.4, 0.8, 0.8],
    "resnet": [0.4, 0.8],
    "t5": [0.4, 0.4, 0.8, 0.8, 0.8, 0.8, 0.8],  # of each stack by itself; the decoder has one block
}


@pytest.mark.parametrize("family", DEEP)
def test_stochastic_depth_is_linear_by_depth_and_of_training_alone(family, monkeypatch):
    still = {"dropout": 0.0, "attention_dropout": 0.0} if family != "resnet" else {}
    usual, batch, key = tiny(family, **still), make_batch(), jax.random.key(2)
    variables = jax.jit(usual.init)(jax.random.key(0))
    nets = [usual, *(tiny(family, **still, drop_path=0.8, remat=r) for r in (False, True))]

    def logits(net, train):
        apply = functools.partial(net.apply, train=train, key=key)
        return jax.jit(apply)(variables, batch)[0].logits

    np.testing.assert_array_equal(logits(nets[0], False), logits(nets[1], False))
    assert np.abs(logits(nets[0], True) - logits(nets[1], True)).max() > 1e-6
    np.testing.assert_allclose(logits(nets[1], True), logits(nets[2], True), rtol=1e-5, atol=1e-6)

    rates, original = [], Tape.drop_path
    monkeypatch.setattr(Tape, "drop_path", lambda s, x, r: (rates.append(r), original(s, x, r))[1])
    jax.eval_shape(lambda: nets[1].apply(variables, batch, train=True, key=key))
    np.testing.assert_allclose([r for r in rates if r], DEEP[family])
    draws = []
    monkeypatch.setattr(Tape, "_draw", lambda *_: draws.append(1))
    jax.eval_shape(lambda: usual.apply(variables, batch, train=True, key=key))
    assert not draws


def test_a_rate_is_a_share():
    with pytest.raises(ValueError, match=r"drop_path = 1\.5 of model 'vit'.*from 0 to 1"):
        tiny("vit", drop_path=1.5)


def test_hidden_state_in_a_module_fails():
    with pytest.raises(ValueError, match=r"[Nn]on-exhaustive"):
        Net(_Hidden(), 2, "image").init(jax.random.key(0))


def test_a_net_is_asked_for_by_name():
    with pytest.raises(UnknownName, match=r"models plugin 'resnett'.*'resnet'"):
        make_net({"name": "resnett"}, C, FACTS)
    with pytest.raises(UnknownName, match=r"preset of model 'bert'.*large"):
        make_net({"name": "bert", "preset": "huge"}, C, FACTS)
    with pytest.raises(UnknownName, match=r"depht.*depth"):
        make_net({"name": "bert", "depht": 3}, C, FACTS)
    with pytest.raises(UnknownName, match="view for model 'bert'"):
        make_net({"name": "bert", "preset": "tiny"}, C, {"image": FACTS["image"]})
    assert (
        make_net({"name": "bert", "preset": "tiny", "depth": 3}, C, FACTS).architecture.depth == 3
    )
