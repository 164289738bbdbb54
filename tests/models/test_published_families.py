"""Which family weights are of: by their config.json, or by their keys where it does not say."""

import json

import pytest

from fairkd_jax import registry
from fairkd_jax.models import pretrained
from fairkd_jax.models.net import families, make_net
from fairkd_jax.registry import UnknownName
from tests.models.test_pretrained import FACTS, SMALL, published, random_variables, small


def configured(tmp_path, **config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize("name", SMALL)
def test_keys_tell_the_family_in_every_dialect(name):
    net = small(name)
    for dialect in range(len(net.architecture.published_names())):
        keys = pretrained.to_published(net, random_variables(net), dialect)
        assert [*families(keys)] == [SMALL[name]["name"]]
    assert not families(["classifier.weight", "encoder.layers.0.weight"])


@pytest.mark.parametrize("asked", ["bert", "vit", "resnet", "t5"])
@pytest.mark.parametrize("given", ["bert", "vit", "basic", "t5", "t5_sequence"])
def test_weights_of_another_family_are_called_by_its_name(given, asked, tmp_path):
    kind = SMALL[given]["name"]
    published(given, tmp_path)
    told = rf"model '{asked}' reads .*these are {kind} weights: {tmp_path}"
    for config in (None, {"num_labels": 3}, {"model_type": asked}):
        if config is not None:
            configured(tmp_path, **config)
        if kind == asked:
            pretrained.check(small(given), tmp_path)
            continue
        with pytest.raises(ValueError, match=told):
            make_net({"name": asked, "pretrained": str(tmp_path), "preset": "tiny"}, 3, FACTS)
        with pytest.raises(ValueError, match=told):
            net = next(n for n in SMALL if SMALL[n]["name"] == asked)
            pretrained.check(small(net), tmp_path)


@pytest.mark.parametrize("name", ["bert", "vit", "bottleneck", "deit_with_two_heads", "t5_untied"])
def test_a_config_without_its_type_is_read_as_the_family_of_the_keys(name, tmp_path):
    tensors, net = published(name, tmp_path), small(name)
    config = net.architecture.to_config()
    del config["model_type"]
    configured(tmp_path, **config)
    read = pretrained.architecture_from_config(tmp_path, tensors)
    assert read.fit(FACTS[net.view]) == net.architecture
    spec = {"name": SMALL[name]["name"], "pretrained": str(tmp_path)}
    assert make_net(spec, 3, FACTS).architecture == net.architecture
    with pytest.raises(ValueError, match=r"no model_type, and 0 keys .* no family; choices: bert"):
        pretrained.architecture_from_config(tmp_path)
    with pytest.raises(UnknownName, match=r"model_type in .* 'gpt9'"):
        pretrained.architecture_from_config(configured(tmp_path, model_type="gpt9"), tensors)


def test_a_class_tells_the_family_where_the_type_is_not_said(tmp_path):
    """RoBERTa counts its positions from 2, in a table that looks like BERT's."""
    config = small("bert").architecture.to_config() | {"architectures": ["RobertaModel"]}
    published("bert", tmp_path)
    spec = {"name": "bert", "pretrained": str(configured(tmp_path, **config))}
    make_net(spec, 3, FACTS)
    del config["model_type"]
    configured(tmp_path, **config)
    with pytest.raises(ValueError, match=r"says architectures \['RobertaModel'\]"):
        make_net(spec, 3, FACTS)
    for known in ("BertModel", "BertForMaskedLM", "BertLMHeadModel"):
        configured(tmp_path, **config | {"architectures": [known]})
        make_net(spec, 3, FACTS)


def test_every_family_says_what_only_it_has():
    assert all(registry.plugin("models", n).signature for n in registry.available("models"))
