"""Published files as others write them: each loads right, or is refused clearly."""

import json

import numpy as np
import pytest

from fairkd_jax import registry
from fairkd_jax.models import pretrained, weights
from fairkd_jax.models.net import make_net
from tests.models.test_pretrained import (
    FACTS,
    TASK,
    assert_equal,
    published,
    random_variables,
    small,
    write,
)


def test_label_names_are_found_where_they_are(tmp_path, caplog):
    tensors, net = published("bert", tmp_path), small("bert")
    config = {
        "id2label": {str(i): f"LABEL_{i}" for i in range(3)},
        "label2id": {"contradictory": 1, "neutral": 0, "ENTAILMENT ": 2},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"\['neutral', 'contradictory', 'ENTAILMENT '\] apart"):
        pretrained.check(net, tmp_path, "take", TASK)
    task = ("Entailment", "neutral", "contradictory")
    loaded = pretrained.load(net, tmp_path, net.variable_shapes(), "take", task)
    bias = tensors["classifier.bias"][[2, 0, 1]]
    np.testing.assert_array_equal(loaded["params"]["head"]["bias"], bias)


def test_labels_are_compared_without_their_spelling(tmp_path):
    published("bert", tmp_path, ("not_entailment", "Entailment "))
    pretrained.check(small("bert", 2), tmp_path, "take", ("entailment", "Not-Entailment"))


def test_a_fresh_head_needs_a_head(tmp_path):
    published("t5_tied", tmp_path)
    with pytest.raises(ValueError, match="head: the net has none of its own to be fresh"):
        pretrained.check(small("t5_tied"), tmp_path, "fresh")


@pytest.mark.parametrize("head", ["qa_outputs", "score", "lm_head", "cls.seq_relationship"])
def test_heads_of_other_tasks_and_no_pooler(head, tmp_path, caplog):
    tensors, net = published("bert", tmp_path), small("bert", 2)
    kept = {k: v for k, v in tensors.items() if "pooler" not in k and k[:10] != "classifier"}
    write(kept | {f"{head}.weight": np.ones((2, 8))}, tmp_path / "model.safetensors")
    fresh = random_variables(net, 1)
    loaded = pretrained.load(net, tmp_path, fresh, "fresh")
    assert_equal(loaded["params"]["pooler"], fresh["params"]["pooler"])
    assert f"{head}.weight" in caplog.text and "params/pooler/kernel" in caplog.text
    with pytest.raises(ValueError, match=r"missing: bert.pooler.dense.bias"):
        pretrained.check(net, tmp_path)
    half = kept | {"bert.pooler.dense.bias": np.ones(8)}
    write(half, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing: bert.pooler.dense.weight"):
        pretrained.check(net, tmp_path, "fresh")


def test_a_deeper_body_is_no_head(tmp_path):
    tensors = pretrained.to_published(small("basic"), random_variables(small("basic")), 2)
    write(tensors | {"layer3.0.conv1.weight": np.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"surplus: layer3\.0\.conv1\.weight"):
        pretrained.check(small("basic"), tmp_path, "fresh")


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.model."])
def test_what_wrappers_put_before_keys_is_left_off(wrapper, tmp_path, caplog):
    tensors, net = published("basic", tmp_path), small("basic")
    want = pretrained.load(net, tmp_path, net.variable_shapes())
    write({wrapper + k: v for k, v in tensors.items()}, tmp_path / "model.safetensors")
    assert_equal(pretrained.load(net, tmp_path, net.variable_shapes()), want)
    assert f"wrapped: '{wrapper}' left off" in caplog.text


def test_a_wrapper_before_a_part_of_the_keys_is_named(tmp_path):
    tensors, net = published("bert", tmp_path), small("bert")
    part = {k if k[:10] == "classifier" else f"module.{k}": v for k, v in tensors.items()}
    part["module.bert.embeddings.word_embeddings.weight"] = np.ones((2, 2))
    write(part, tmp_path / "model.safetensors")
    with pytest.raises(ValueError) as error:
        pretrained.check(net, tmp_path)
    told = f"'module.' before {len(part) - 2} of them"
    assert told in str(error.value) and "nothing before classifier.bias, class" in str(error.value)
    assert "missing" not in str(error.value) and "surplus" not in str(error.value)


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_a_bert_with_its_head_of_words(prefix, tmp_path):
    """As pretrained, the tied words of its head written or not."""
    tensors, net = published("bert", tmp_path), small("bert", 2)
    body = {k.removeprefix("bert."): v for k, v in tensors.items() if k[:10] != "classifier"}
    words = body["embeddings.word_embeddings.weight"]
    head = {
        "cls.predictions.decoder.weight": words,
        "cls.predictions.decoder.bias": np.ones(len(words)),
        "cls.predictions.bias": np.ones(len(words)),
        "cls.predictions.transform.dense.weight": np.ones((8, 8)),
        "cls.seq_relationship.weight": np.ones((2, 8)),
    }
    fresh = random_variables(net, 1)
    body = {prefix + k: v for k, v in body.items()}
    write(body | head, tmp_path / "model.safetensors")
    written = pretrained.load(net, tmp_path, fresh, "fresh")
    write(body, tmp_path / "model.safetensors")
    assert_equal(pretrained.load(net, tmp_path, fresh, "fresh"), written)
    np.testing.assert_array_equal(written["params"]["embed"]["word"]["embedding"], words)
    assert_equal(written["params"]["head"], fresh["params"]["head"])
    with pytest.raises(
        ValueError, match=r"missing: classifier\.bias\n  missing: classifier\.weight$"
    ):
        pretrained.check(net, tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "page of HTML"),
        (b"", "empty: fetch it again"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", weights.INDEX, "model.safetensors"])
def test_files_that_are_something_else(name, content, told, tmp_path):
    published("bert", tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is no .*{told}"):
        pretrained.check(small("bert"), tmp_path)


@pytest.mark.parametrize(("name", "told"), [("config.json", "list"), (weights.INDEX, "weight_map")])
def test_json_of_another_form(name, told, tmp_path):
    published("bert", tmp_path)
    (tmp_path / name).write_text("[]" if told == "list" else "{}")
    with pytest.raises(ValueError, match=rf"{name} (holds|has).*{told}"):
        pretrained.check(small("bert"), tmp_path)


def test_a_preset_may_be_a_number():
    made = [make_net({"name": "resnet", "preset": p}, 3, FACTS) for p in (50, "50")]
    assert made[0] == made[1]


@pytest.mark.parametrize("name", ["t5", "t5_tied", "t5_sequence"])
@pytest.mark.parametrize("where", ["encoder.embed_tokens", "decoder.embed_tokens", "lm_head"])
def test_words_that_were_written_once_under_another_name(name, where, tmp_path):
    tensors, net = published(name, tmp_path), small(name)
    want = pretrained.load(net, tmp_path, net.variable_shapes())
    key = next(k for k in tensors if k.endswith("shared.weight"))
    other = f"{where}.weight" if where == "lm_head" else key.replace("shared", where)
    write({k.replace(key, other): v for k, v in tensors.items()}, tmp_path / "model.safetensors")
    config = net.architecture.to_config()
    (tmp_path / "config.json").write_text(json.dumps(config))
    spec = {"name": "t5", "pretrained": str(tmp_path), "readout": net.architecture.readout}
    assert make_net(spec, 3, FACTS).architecture.tied
    assert_equal(pretrained.load(net, tmp_path, net.variable_shapes()), want)


def test_the_old_class_of_t5_answers_by_its_words(tmp_path):
    config = {"model_type": "t5", "architectures": ["T5WithLMHeadModel"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert pretrained.architecture_from_config(tmp_path).readout == "verbalizer"


@pytest.mark.parametrize("name", ["bert", "vit", "resnet", "t5"])
def test_a_config_that_is_silent_means_the_defaults_of_transformers(name):
    import transformers

    kind = {"bert": "Bert", "vit": "ViT", "resnet": "ResNet", "t5": "T5"}[name]
    full = getattr(transformers, f"{kind}Config")().to_dict()
    family = registry.plugin("models", name)
    full["num_decoder_layers"] = None  # as many as the encoder has
    assert family.from_config({}) == family.from_config(full)
