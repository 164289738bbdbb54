"""Published weights: there and back in every dialect, every fault at once, heads by name."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from fairkd_jax import registry
from fairkd_jax.models import pretrained, weights
from fairkd_jax.models.net import make_net
from fairkd_jax.registry import UnknownName

WORDS = {"vocab_size": 20, "length": 8, "identity": "words"}
FACTS = {
    "wordpiece": WORDS,
    "unigram": WORDS | {"label_tokens": ((3, 1), (4, 1), (5, 6, 1))},
    "image": {"height": 8, "width": 8, "channels": 3, "identity": "image"},
}
SIZES = {"depth": 2, "width": 8, "heads": 2, "mlp_width": 32}
VIT = {"name": "vit", **SIZES, "patch": 4}
T5 = {"name": "t5", **SIZES, "decoder_depth": 1, "head_width": 4}
SMALL = {
    "bert": {"name": "bert", **SIZES, "positions": 8},
    "basic": {"name": "resnet", "depths": (1, 2), "widths": (8, 16), "stem_width": 8},
    "bottleneck": {
        "name": "resnet",
        "depths": (1, 2),
        "widths": (8, 16),
        "stem_width": 4,
        "block": "bottleneck",
    },
    "cifar": {"name": "resnet", "preset": "tiny"},
    "vit": VIT,
    "vit_without_bias": VIT | {"qkv_bias": False},
    "deit": VIT | {"distillation": "token"},
    "deit_with_two_heads": VIT | {"distillation": "head"},
    "t5": T5,
    "t5_sequence": T5 | {"readout": "sequence"},
    "t5_tied": T5 | {"readout": "verbalizer"},
    "t5_untied": T5 | {"readout": "verbalizer", "tied": False, "gated": True},
}
TASK = ("entailment", "neutral", "contradiction")


def small(name, num_classes=3, **options):
    return make_net(SMALL[name] | options, num_classes, FACTS)


def random_variables(net, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda s: rng.normal(size=s.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, net.variable_shapes())


def write(tensors, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
    return path


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", SMALL)
def test_there_and_back_in_every_dialect(name, tmp_path):
    net = small(name)
    variables = random_variables(net)
    names = net.architecture.published_names()
    assert names
    statistics = sum(x.size for x in jax.tree.leaves(variables["stats"]))
    for dialect in range(len(names)):
        tensors = pretrained.to_published(net, variables, dialect)
        assert sum(t.size for t in tensors.values()) == net.num_parameters() + statistics
        write(tensors, tmp_path / str(dialect) / "model.safetensors")
        back = pretrained.load(net, tmp_path / str(dialect), random_variables(net, 1))
        assert_equal(back, variables)


@pytest.mark.parametrize("name", [n for n in SMALL if n not in ("cifar", "t5")])
def test_what_is_saved_says_what_it_is(name, tmp_path):
    net = small(name)
    variables = random_variables(net)
    pretrained.save(net, variables, tmp_path, TASK)
    spec = {"name": SMALL[name]["name"], "pretrained": str(tmp_path)}
    again = make_net(spec, 3, FACTS)
    assert again == net
    assert_equal(pretrained.load(again, tmp_path, net.variable_shapes(), "take", TASK), variables)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["id2label"] == dict(zip("012", TASK)) and config["architectures"]
    assert config["label2id"] == {"entailment": 0, "neutral": 1, "contradiction": 2}
    with pytest.raises(FileExistsError, match=r"model\.safetensors"):
        pretrained.save(net, variables, tmp_path, TASK)
    with pytest.raises(ValueError, match="2 labels"):
        pretrained.save(net, variables, tmp_path / "other", TASK[:2])


def test_layouts_and_names_are_the_published_ones():
    bert = pretrained.to_published(small("bert"), random_variables(small("bert")))
    assert bert["bert.encoder.layer.1.intermediate.dense.weight"].shape == (32, 8)
    assert bert["bert.embeddings.LayerNorm.weight"].shape == (8,)
    assert bert["classifier.weight"].shape == (3, 8)
    net = small("bottleneck")
    variables = random_variables(net)
    resnet = pretrained.to_published(net, variables)
    assert resnet["resnet.embedder.embedder.convolution.weight"].shape == (4, 3, 7, 7)
    key = "resnet.encoder.stages.1.layers.0.layer.1.convolution.weight"
    kernel = variables["params"]["stage2"]["block1"]["conv2"]["conv"]["kernel"]
    assert resnet[key][1, 2, 0, 1] == kernel[0, 1, 2, 1]
    torchvision = pretrained.to_published(net, variables, 2)
    assert "layer2.0.downsample.1.running_var" in torchvision and "fc.bias" in torchvision
    assert "linear.weight" in pretrained.to_published(net, variables, 3)
    vit = pretrained.to_published(small("vit"), random_variables(small("vit")))
    assert vit["vit.embeddings.cls_token"].shape == (1, 1, 8)
    assert vit["vit.embeddings.position_embeddings"].shape == (1, 5, 8)
    assert vit["vit.embeddings.patch_embeddings.projection.weight"].shape == (8, 3, 4, 4)
    assert "vit.encoder.layer.0.attention.attention.query.weight" in vit
    memory = pretrained.to_published(small("vit"), random_variables(small("vit")), 2)
    assert "vit.layers.0.attention.q_proj.weight" in memory
    t5 = pretrained.to_published(small("t5_untied"), random_variables(small("t5_untied")))
    assert t5["lm_head.weight"].shape == (20, 8) and t5["shared.weight"].shape == (20, 8)
    tied = pretrained.to_published(small("t5_tied"), random_variables(small("t5_tied")))
    assert not [k for k in tied if "lm_head" in k or "embed_tokens" in k]


def published(name, tmp_path, labels=None, seed=0, **config):
    """A folder of weights of a small net, and their tensors; `labels` are put in its config."""
    net = small(name, len(labels or TASK))
    tensors = pretrained.to_published(net, random_variables(net, seed))
    write(tensors, tmp_path / "model.safetensors")
    if labels is not None:
        config |= {"id2label": {str(i): label for i, label in enumerate(labels)}}
        (tmp_path / "config.json").write_text(json.dumps(config))
    return tensors


def test_a_head_may_stay_fresh(tmp_path, caplog):
    net = small("bert", 2)
    tensors = published("bert", tmp_path)
    write(tensors | {"cls.predictions.bias": np.zeros(20)}, tmp_path / "model.safetensors")
    fresh = random_variables(net, 1)
    with pytest.raises(ValueError, match=r"misshapen: classifier.weight is \(3, 8\).*\(2, 8\)"):
        pretrained.load(net, tmp_path, fresh)
    loaded = pretrained.load(net, tmp_path, fresh, head="fresh")
    assert "head fresh: params/head/bias, params/head/kernel kept as they are" in caplog.text
    assert "not taken: classifier.bias, classifier.weight" in caplog.text
    assert_equal(loaded["params"]["head"], fresh["params"]["head"])
    word = loaded["params"]["embed"]["word"]["embedding"]
    np.testing.assert_array_equal(word, tensors["bert.embeddings.word_embeddings.weight"])
    headless = {k: v for k, v in tensors.items() if not k.startswith("classifier")}
    file = write(headless, tmp_path / "body" / "any.safetensors")
    pretrained.load(net, file, fresh, head="fresh")
    assert "not taken: nothing, the file has none" in caplog.text
    with pytest.raises(ValueError, match=r"head='take'.*\n  missing: classifier\.bias\n  missing"):
        pretrained.load(net, file, fresh)
    with pytest.raises(UnknownName, match=r"head.* 'keep'.*fresh, take"):
        pretrained.load(net, file, fresh, head="keep")


@pytest.mark.parametrize("name", ["bert", "cifar", "deit_with_two_heads", "t5_sequence"])
def test_a_head_is_taken_by_the_names_of_its_labels(name, tmp_path, caplog):
    shuffled = ("CONTRADICTION", "Entailment", "neutral")
    tensors, net = published(name, tmp_path, shuffled), small(name)
    theirs = pretrained.load(net, tmp_path, net.variable_shapes())
    assert not caplog.text
    ours = pretrained.load(net, tmp_path, net.variable_shapes(), "take", TASK)
    assert "head reordered from ['CONTRADICTION', 'Entailment', 'neutral'] to " in caplog.text
    mine, other = (jax.tree.leaves_with_path(v["params"]) for v in (ours, theirs))
    moved = 0
    for (path, array), (_, unordered) in zip(mine, other):
        grows = jax.tree_util.keystr(path).startswith("['head']") and array.shape[-1] == 3
        moved += grows
        np.testing.assert_array_equal(array, unordered[..., [1, 2, 0]] if grows else unordered)
    assert moved == {"deit_with_two_heads": 4}.get(name, 2)
    if name == "bert":
        np.testing.assert_array_equal(
            ours["params"]["head"]["bias"], tensors["classifier.bias"][[1, 2, 0]]
        )
    caplog.clear()
    same = pretrained.load(net, tmp_path, net.variable_shapes(), "take", shuffled)
    assert_equal(same, theirs)
    assert not caplog.text


def test_a_head_of_other_labels_is_refused(tmp_path, caplog):
    published("bert", tmp_path, ("negative", "positive"))
    net = small("bert")
    for check in (
        lambda: pretrained.check(net, tmp_path, "take", TASK),
        lambda: pretrained.load(net, tmp_path, net.variable_shapes(), "take", TASK),
    ):
        with pytest.raises(ValueError) as error:
            check()
        told = "['negative', 'positive'] apart, the task ['entailment', 'neutral', 'contradiction']"
        assert told in str(error.value) and 'head="fresh"' in str(error.value)
        assert "misshapen: classifier.bias" in str(error.value)  # with all other faults
    pretrained.check(net, tmp_path, "fresh", TASK)

    published("bert", tmp_path, ("LABEL_0", "LABEL_1", "LABEL_2"))
    pretrained.load(net, tmp_path, net.variable_shapes(), "take", TASK)
    assert "labels without names: they are taken to be, in order, entailment, neu" in caplog.text


def test_all_faults_are_reported_at_once(tmp_path):
    net = small("bert")
    tensors = published("bert", tmp_path)
    del tensors["bert.pooler.dense.bias"]
    del tensors["bert.encoder.layer.0.output.dense.weight"]
    tensors["bert.encoder.layer.2.output.dense.bias"] = np.zeros(8, np.float32)
    tensors["bert.embeddings.word_embeddings.weight"] = np.zeros((99, 8), np.float32)
    tensors["bert.encoder.layer.1.output.dense.bias"] = np.zeros(8, np.int8)
    write(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError) as error:
        pretrained.load(net, tmp_path, random_variables(net))
    text = str(error.value)
    assert str(tmp_path) in text
    for line in (
        "missing: bert.pooler.dense.bias",
        "missing: bert.encoder.layer.0.output.dense.weight",
        "surplus: bert.encoder.layer.2.output.dense.bias",
        "misshapen: bert.embeddings.word_embeddings.weight is (99, 8), the net's is (20, 8)",
        "not floating: bert.encoder.layer.1.output.dense.bias is I8",
    ):
        assert f"\n  {line}" in text


def test_numbers_that_are_not_finite_are_named(tmp_path):
    tensors, net = published("cifar", tmp_path), small("cifar")
    key = "resnet.encoder.stages.0.layers.0.layer.1.convolution.weight"
    tensors[key] = np.where(tensors[key] > 1, np.nan, tensors[key])
    write(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"not finite: {key}$"):
        pretrained.load(net, tmp_path, net.variable_shapes())


def test_positions_are_adapted_to_another_image(tmp_path, caplog):
    net = small("vit")
    variables = random_variables(net)
    pretrained.save(net, variables, tmp_path, TASK)
    larger = {"image": FACTS["image"] | {"height": 16, "width": 12}}
    other = make_net({"name": "vit", "pretrained": str(tmp_path)}, 3, larger)
    pretrained.check(other, tmp_path)
    loaded = pretrained.load(other, tmp_path, other.variable_shapes())
    before = variables["params"]["embed"].pop("position")
    after = loaded["params"]["embed"].pop("position")
    assert before.shape == (1, 5, 8) and after.shape == (1, 13, 8) and after.dtype == jnp.float32
    np.testing.assert_array_equal(after[0, 0], before[0, 0])
    assert_equal(loaded, variables)
    key = "vit.embeddings.position_embeddings"
    assert f"adapted: {key}, (1, 5, 8) in the file, to (1, 13, 8)" in caplog.text


def test_old_names_of_normalisation_are_read(tmp_path):
    net = small("bert")
    variables = random_variables(net)
    tensors = {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): v
        for k, v in pretrained.to_published(net, variables).items()
    }
    file = write(tensors, tmp_path / "old.safetensors")
    assert_equal(pretrained.load(net, file, net.variable_shapes()), variables)


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files_and_placement(tmp_path, half):
    net = small("cifar")
    variables = random_variables(net)
    tensors = pretrained.to_published(net, variables)
    file = write({k: v.astype(half) for k, v in tensors.items()}, tmp_path / "h.safetensors")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    loaded = pretrained.load(net, file, jax.device_put(variables, spread))
    for leaf, want in zip(jax.tree.leaves(loaded), jax.tree.leaves(variables)):
        assert leaf.dtype == jnp.float32 and leaf.sharding == spread
        np.testing.assert_array_equal(leaf, want.astype(half).astype(np.float32))


def test_weights_in_several_files(tmp_path):
    tensors, net = published("bert", tmp_path), small("bert")
    whole = pretrained.load(net, tmp_path, net.variable_shapes())
    (tmp_path / "model.safetensors").unlink()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    where = {key: names[i % 2] for i, key in enumerate(tensors)}
    for name in names:
        write({k: v for k, v in tensors.items() if where[k] == name}, tmp_path / name)
    (tmp_path / weights.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert_equal(pretrained.load(net, tmp_path, net.variable_shapes()), whole)
    write(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=rf"more than one.*other\.safetensors, {weights.INDEX}"):
        pretrained.load(net, tmp_path, {})
    (tmp_path / names[1]).unlink()
    with pytest.raises(FileNotFoundError, match=rf"names files that are not there: {names[1]}"):
        pretrained.load(net, tmp_path, {})


def test_files_that_are_not_there_or_of_another_kind(tmp_path):
    net = small("cifar")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors in .* holds nothing"):
        pretrained.load(net, tmp_path, {})
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    refusal = r"pytorch_model\.bin is pickled.* run whatever code.*convert it to safetensors"
    with pytest.raises(FileNotFoundError, match=refusal):
        pretrained.load(net, tmp_path, {})
    with pytest.raises(ValueError, match=refusal):
        pretrained.load(net, tmp_path / "pytorch_model.bin", {})
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"name the file: a\.safetensors, b\.safetensors"):
        pretrained.load(net, tmp_path, {})
    with pytest.raises(ValueError, match=r"a\.safetensors is no safetensors file"):
        pretrained.load(net, tmp_path / "a.safetensors", {})
    with pytest.raises(FileNotFoundError, match=r"'no/where/at all' is neither a local"):
        pretrained.load(net, "no/where/at all", {})


def test_a_net_takes_its_sizes_from_beside_its_weights(tmp_path):
    make = lambda **spec: make_net({"name": "bert", "pretrained": str(tmp_path)} | spec, 3, FACTS)  # noqa: E731
    published("bert", tmp_path)
    with pytest.raises(ValueError, match=r"no config\.json beside .*preset = one of tiny, mini"):
        make(depth=2, width=8, heads=2, positions=8)
    assert (
        make(preset="tiny", mlp_width=32, width=8, positions=8).architecture
        == small("bert").architecture
    )
    config = small("bert").architecture.to_config() | {"hidden_dropout_prob": 0.3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    sizes = make().architecture
    assert (sizes.depth, sizes.width, sizes.vocab_size, sizes.dropout) == (2, 8, 20, 0.3)
    assert (sizes.dtype, sizes.remat) == ("float32", False)
    changed = make(head="fresh", dropout=0.0, dtype="bfloat16").architecture
    assert (changed.dropout, changed.dtype, changed.width) == (0.0, "bfloat16", 8)
    with pytest.raises(ValueError) as error:
        make(preset="tiny", heads=4, epsilon=1e-6, dropout=0.0)
    for told in ("width = 128", "heads = 4, config.json says 2", "epsilon = 1e-06", "positions"):
        assert told in str(error.value)
    assert "preset = 'tiny'" in str(error.value) and "dropout" not in str(error.value)
    with pytest.raises(ValueError, match=r"heads = 4, config\.json says 2"):
        make(heads=4)
    with pytest.raises(UnknownName, match=r"'dropuot'.*'dropout'"):
        make(dropuot=0.0)
    for preset in (None, "tiny"):
        with pytest.raises(ValueError, match=r"'resnet' reads .*model_type resnet.*says 'bert'"):
            make_net({"name": "resnet", "pretrained": str(tmp_path), "preset": preset}, 3, FACTS)


def test_a_head_without_weights_is_an_error():
    with pytest.raises(ValueError, match=r"'bert': head = 'fresh'.*no 'pretrained'"):
        make_net({"name": "bert", "preset": "tiny", "head": "fresh"}, 3, FACTS)
    with pytest.raises(UnknownName, match=r"head: 'frehs'.*'fresh'"):
        weights.split({"name": "bert", "pretrained": "x", "head": "frehs"})
    assert weights.split({"name": "bert", "pretrained": None}) == ({"name": "bert"}, None)


def test_architecture_from_config(tmp_path):
    def config(**values):
        (tmp_path / "config.json").write_text(json.dumps(values))
        return pretrained.architecture_from_config(tmp_path)

    resnet = dict(
        model_type="resnet",
        depths=[3, 4],
        hidden_sizes=[16, 32],
        layer_type="bottleneck",
        embedding_size=8,
        num_channels=1,
    )
    net = config(**resnet)
    assert (net.depths, net.widths, net.block, net.channels) == ((3, 4), (16, 32), "bottleneck", 1)
    with pytest.raises(ValueError, match="hidden_act = 'gelu'; only 'relu'"):
        config(**resnet, hidden_act="gelu")
    with pytest.raises(UnknownName, match=r"model_type in .* 'gpt9'.*bert.*resnet"):
        config(model_type="gpt9")
    with pytest.raises(ValueError, match="hidden_act = 'relu'; only 'gelu'"):
        config(model_type="bert", hidden_act="relu")


def test_every_family_is_tried_here():
    assert {spec["name"] for spec in SMALL.values()} == {*registry.available("models")}
