"""Options beside published weights: what contradicts them, what a taken head has read."""

import json

import numpy as np
import pytest

from fairkd_jax.models import pretrained
from fairkd_jax.models.bert import Bert
from fairkd_jax.models.net import make_net
from tests.models.test_pretrained import FACTS, TASK, assert_equal, random_variables, small


def saved(name, tmp_path, **config):
    """(the net, its variables, the spec that starts from them)."""
    net = small(name)
    variables = random_variables(net)
    pretrained.save(net, variables, tmp_path, TASK)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return net, variables, {"name": net.architecture.model_types[0], "pretrained": str(tmp_path)}


def test_variants_that_are_not_there_are_told_at_once(tmp_path):
    config = {"hidden_act": "relu", "position_embedding_type": "relative_key", "is_decoder": True}
    _, _, spec = saved("bert", tmp_path, **config)
    with pytest.raises(ValueError) as error:
        make_net(spec, 3, FACTS)
    for told in (
        f"beside {tmp_path}: bert config: hidden_act = 'relu'; only 'gelu' is there",
        "position_embedding_type = 'relative_key'; only 'absolute'",
        "is_decoder = True; only False",
    ):
        assert told in str(error.value)
    assert Bert.from_config({"hidden_act": "gelu", "is_decoder": False}) == Bert.from_config({})


def test_a_contradiction_names_a_preset_only_where_one_was_given(tmp_path):
    _, _, spec = saved("bert", tmp_path)
    with pytest.raises(ValueError, match=r"width = 16, config\.json says 8") as error:
        make_net(spec | {"width": 16}, 3, FACTS)
    assert "None" not in str(error.value)
    with pytest.raises(ValueError, match="preset = 'tiny': the config"):
        make_net(spec | {"preset": "tiny"}, 3, FACTS)


def test_a_taken_head_reads_what_it_has_read(tmp_path):
    _, variables, spec = saved("vit", tmp_path)
    with pytest.raises(ValueError, match=r"pooling = 'mean', config\.json says 'cls', .*fresh"):
        make_net(spec | {"pooling": "mean"}, 3, FACTS)
    assert make_net(spec | {"pooling": "cls", "dropout": 0.3}, 3, FACTS).architecture.dropout == 0.3
    other = make_net(spec | {"pooling": "mean", "head": "fresh"}, 3, FACTS)
    assert other.architecture.pooling == "mean"
    fresh = random_variables(other, 1)
    loaded = pretrained.load(other, tmp_path, fresh, "fresh")
    assert_equal(loaded["params"].pop("head"), fresh["params"]["head"])
    del variables["params"]["head"]
    assert_equal(loaded, variables)


@pytest.mark.parametrize("name", ["t5_sequence", "t5_tied", "t5_untied"])
@pytest.mark.parametrize("readout", ["first_step", "sequence", "verbalizer"])
def test_t5_answers_as_its_weights_do_or_has_no_head_to_take(name, readout, tmp_path):
    net, variables, spec = saved(name, tmp_path)
    other = make_net(spec | {"readout": readout}, 3, FACTS)
    if readout in ("verbalizer", net.architecture.readout):
        pretrained.check(other, tmp_path)  # the words that it answers with are there
    else:
        with pytest.raises(ValueError, match=r"missing: (head|classification_head\.dense)\.bias"):
            pretrained.check(other, tmp_path)
        loaded = pretrained.load(other, tmp_path, random_variables(other, 1), "fresh")
        assert_equal(loaded["params"]["dec"], variables["params"]["dec"])


def test_a_t5_that_is_untied_has_words_to_answer_with_or_none(tmp_path):
    """A body without its lm_head: what it reads words by is not what it would write them by."""
    _, _, spec = saved("t5_sequence", tmp_path, tie_word_embeddings=False)
    other = make_net(spec | {"readout": "verbalizer"}, 3, FACTS)
    with pytest.raises(ValueError, match=r"missing: lm_head\.weight$"):
        pretrained.check(other, tmp_path)
    same = make_net(spec, 3, FACTS)
    embedding = pretrained.load(same, tmp_path, same.variable_shapes())["params"]["embed"]
    assert np.isfinite(embedding["embedding"]).all()
