"""Batches carry the identity of their encoding, and a net refuses the numbers of another."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairkd_jax import sharding
from fairkd_jax.config import Data
from fairkd_jax.data import pipeline
from fairkd_jax.data.pipeline import eval_batches, open_data, train_batches
from fairkd_jax.data.sets.colored_digits import ColoredDigits
from fairkd_jax.data.sets.template_nli import TemplateNli
from fairkd_jax.data.views.image import Image
from fairkd_jax.data.views.unigram import Unigram
from fairkd_jax.data.views.wordpiece import Wordpiece
from fairkd_jax.models.net import make_net
from fairkd_jax.types import Inputs

SET = {"name": "template_nli", "train": 200, "eval": 24}


def opened(**options):
    """The set read as word pieces of at most 400, unless options say otherwise."""
    view = {"name": "wordpiece", "length": 24, "vocab_size": 400} | options
    return open_data(Data(set=SET, views={"wordpiece": view}))


def identities(batch):
    views = batch["views"]
    assert all(type(view) is Inputs for view in views.values())
    return {name: view.identity for name, view in views.items()}


@pytest.mark.quick
def test_a_batch_keeps_its_identity_wherever_it_goes():
    views = {
        "words": {"name": "wordpiece", "length": 24, "vocab_size": 400},
        "pieces": {"name": "unigram", "length": 24, "vocab_size": 300},
    }
    data = open_data(Data(set=SET, views=views))
    want = {name: facts["identity"] for name, facts in data.facts.items()}
    assert len(set(want.values())) == 2
    source = data.source("train")
    batches = train_batches(source, seed=0, steps=3, batch_size=8)
    batch = batches[0]
    mesh = sharding.make_mesh(2)
    moved = [
        batch,
        *pipeline.prefetched(batches),
        *eval_batches(data.source("test"), 16),
        *pipeline.prefetched(eval_batches(data.source("test"), 16)),
        jax.tree.map(lambda x: x[:4], batch),
        jax.tree.map(jnp.add, batch, batch),
        jax.device_put(batch),
        sharding.put_batch(batch, mesh),
        jax.jit(lambda b: b)(batch),
        jax.jit(lambda b: b)(sharding.put_batch(batch, mesh)),
        jax.eval_shape(lambda b: b, batch),
        jax.tree.unflatten(jax.tree.structure(batch), jax.tree.leaves(batch)),
        jax.lax.scan(lambda c, b: (c, b), 0, jax.tree.map(lambda x: x[None], batch))[1],
        jax.vmap(lambda b: b)(batch),
    ]
    for where, other in enumerate(moved):
        assert identities(other) == want, where
    traced = []
    jax.jit(lambda b: traced.append(identities(b)))(batch)
    assert traced == [want]
    with pytest.raises(ValueError, match="metadata"):
        jax.tree.map(jnp.add, batch["views"]["words"], Inputs(batch["views"]["words"], "other"))


def test_a_net_refuses_the_numbers_of_another_tokenizer():
    mine, longer, other = opened(), opened(length=32), opened(vocab_size=200)
    net = make_net({"name": "bert", "preset": "tiny"}, 3, mine.facts)
    assert net.identity == mine.facts["wordpiece"]["identity"]
    variables = jax.jit(net.init)(jax.random.key(0))

    def batch(data):
        return train_batches(data.source("train"), seed=0, steps=1, batch_size=4)[0]

    def logits(variables, batch):
        return net.apply(variables, batch, train=False)[0].logits

    apply = jax.jit(logits)
    assert apply(variables, batch(mine)).shape == (4, 3)
    np.testing.assert_allclose(  # the same words at another length
        apply(variables, batch(longer)), apply(variables, batch(mine)), rtol=1e-4, atol=1e-5
    )
    for run in (logits, apply, lambda v, b: jax.eval_shape(logits, v, b)):
        with pytest.raises(ValueError, match="was encoded by") as error:
            run(variables, batch(other))
        for data in (mine, other):
            assert data.facts["wordpiece"]["identity"] in str(error.value)
    assert make_net({"name": "bert", "preset": "tiny"}, 3, longer.facts).identity == net.identity


@pytest.mark.quick
@pytest.mark.parametrize("view", [Wordpiece, Unigram])
def test_the_identity_says_what_numbers_mean_and_no_more(view):
    split = TemplateNli(train=200, eval=24).load("train")

    def identity(**options):
        return view(**{"vocab_size": 300, "length": 16} | options).fit(split).facts["identity"]

    assert identity() == identity(length=40)
    assert identity() != identity(vocab_size=200)
    prompt = "{hypothesis} {premise}"  # the same words in another order
    assert identity() == identity(prompt=prompt)


@pytest.mark.quick
def test_a_folder_says_which_inputs_its_weights_were_made_for(tmp_path):
    split = TemplateNli(train=200, eval=24).load("train")
    for view in (Wordpiece, Unigram):
        folder = tmp_path / view.__name__
        encoder = view(vocab_size=300, length=16).fit(split)
        encoder.save(folder)
        (folder / "config.json").write_text("{}")
        assert view(length=99).options_for(folder, encoder) == {}
        other = view(vocab_size=200, length=16).fit(split)
        assert view().options_for(folder, other) == {"tokenizer": str(folder)}
    (tmp_path / "config.json").write_text("{}")
    images = Image().fit(ColoredDigits().load("train"))
    for view, fitted in ((Wordpiece(), encoder), (Unigram(), encoder), (Image(), images)):
        assert view.options_for(tmp_path, fitted) is None


@pytest.mark.quick
def test_processes_agree_on_the_identity(tmp_path):
    split = TemplateNli(train=200, eval=24).load("train")
    names = {"wordpiece": Wordpiece, "unigram": Unigram}
    here = []
    for name, view in names.items():
        encoder = view(vocab_size=300, length=16).fit(split)
        encoder.save(tmp_path / name)
        here += [encoder.facts["identity"]] * 2
    program = (
        "import pathlib, sys\n"
        "from fairkd_jax import registry\n"
        "from fairkd_jax.data.sets.template_nli import TemplateNli\n"
        "split = TemplateNli(train=200, eval=24).load('train')\n"
        "for name in ('wordpiece', 'unigram'):\n"
        "    folder = pathlib.Path(sys.argv[1]) / name\n"
        "    trained = registry.build('views', {'name': name, 'vocab_size': 300, 'length': 20})\n"
        "    read = registry.build('views', {'name': name, 'tokenizer': str(folder)})\n"
        "    again = read.fit(split)\n"
        "    print(trained.fit(split).facts['identity'], again.facts['identity'])\n"
        "    assert read.options_for(folder, again) == {}"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )
    assert done.stdout.split() == here, done.stderr
