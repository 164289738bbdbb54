"""Published weights: key tables there and back, every fault at once, sizes from a config."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from fairkd_jax.models import pretrained
from fairkd_jax.models.net import make_net
from fairkd_jax.registry import UnknownName

FACTS = {
    "wordpiece": {"vocab_size": 20, "length": 8, "identity": "words"},
    "image": {"height": 8, "width": 8, "channels": 3, "identity": "image"},
}
SMALL = {
    "bert": {"name": "bert", "depth": 2, "width": 8, "heads": 2, "positions": 8},
    "bottleneck": {
        "name": "resnet",
        "depths": (1, 2),
        "widths": (8, 16),
        "stem_width": 4,
        "block": "bottleneck",
    },
    "cifar": {"name": "resnet", "preset": "tiny"},
}


def small(name, num_classes=3, **options):
    return make_net(SMALL[name] | options, num_classes, FACTS)


def random_variables(net, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda s: rng.normal(size=s.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, net.variable_shapes())


def write(tensors, path):
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
    return path


@pytest.mark.parametrize(
    "name, dialect",
    [("bert", 0), ("bert", 1), *[(n, d) for n in ("bottleneck", "cifar") for d in range(4)]],
)
def test_there_and_back_in_every_dialect(name, dialect, tmp_path):
    net = small(name)
    variables = random_variables(net)
    tensors = pretrained.to_published(net, variables, dialect)
    assert len(tensors) == len(jax.tree.leaves(variables))
    tensors["bert.embeddings.position_ids" if name == "bert" else "bn1.num_batches_tracked"] = (
        np.arange(3)
    )
    write(tensors, tmp_path / "model.safetensors")
    back = pretrained.load(net, tmp_path, random_variables(net, 1))
    jax.tree.map(np.testing.assert_array_equal, back, variables)


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


def test_a_head_may_stay_fresh(tmp_path, caplog):
    net, other = small("bert", 2), small("bert", 3)
    tensors = pretrained.to_published(other, random_variables(other))
    tensors["cls.predictions.bias"] = np.zeros(20, np.float32)  # a head of pretraining
    file = write(tensors, tmp_path / "nli.safetensors")
    fresh = random_variables(net, 1)
    with pytest.raises(ValueError, match=r"misshapen: classifier.weight is \(3, 8\).*\(2, 8\)"):
        pretrained.load(net, file, fresh)
    with caplog.at_level("INFO", logger="absl"):
        loaded = pretrained.load(net, file, fresh, head="fresh")
    assert "kept fresh: params/head/bias, params/head/kernel" in caplog.text
    np.testing.assert_array_equal(
        loaded["params"]["head"]["kernel"], fresh["params"]["head"]["kernel"]
    )
    word = loaded["params"]["embed"]["word"]["embedding"]
    np.testing.assert_array_equal(word, tensors["bert.embeddings.word_embeddings.weight"])
    headless = {k: v for k, v in tensors.items() if not k.startswith("classifier")}
    file = write(headless, tmp_path / "body.safetensors")
    pretrained.load(net, file, fresh, head="fresh")
    with pytest.raises(
        ValueError, match=r"missing: classifier\.bias\n  missing: classifier\.weight"
    ):
        pretrained.load(net, file, fresh)
    with pytest.raises(UnknownName, match=r"way with the head 'keep'.*fresh, take"):
        pretrained.load(net, file, fresh, head="keep")


def test_all_faults_are_reported_at_once(tmp_path):
    net = small("bert")
    tensors = pretrained.to_published(net, random_variables(net))
    del tensors["bert.pooler.dense.bias"]
    del tensors["bert.encoder.layer.0.output.dense.weight"]
    tensors["bert.encoder.layer.2.output.dense.bias"] = np.zeros(8, np.float32)
    tensors["bert.embeddings.word_embeddings.weight"] = np.zeros((99, 8), np.float32)
    file = write(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError) as error:
        pretrained.load(net, file, random_variables(net))
    text = str(error.value)
    assert str(file) in text
    for line in (
        "missing: bert.pooler.dense.bias",
        "missing: bert.encoder.layer.0.output.dense.weight",
        "surplus: bert.encoder.layer.2.output.dense.bias",
        "misshapen: bert.embeddings.word_embeddings.weight is (99, 8), the net's is (20, 8)",
    ):
        assert f"\n  {line}" in text


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
    jax.tree.map(
        np.testing.assert_array_equal, pretrained.load(net, file, net.variable_shapes()), variables
    )


def test_half_precision_files_and_placement(tmp_path):
    net = small("cifar")
    variables = random_variables(net)
    tensors = pretrained.to_published(net, variables)
    file = write({k: v.astype(np.float16) for k, v in tensors.items()}, tmp_path / "h.safetensors")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    loaded = pretrained.load(net, file, jax.device_put(variables, spread))
    for leaf, want in zip(jax.tree.leaves(loaded), jax.tree.leaves(variables)):
        assert leaf.dtype == jnp.float32 and leaf.sharding == spread
        np.testing.assert_allclose(leaf, want, rtol=1e-3, atol=1e-4)


def test_files_that_are_not_there_or_broken(tmp_path):
    net = small("cifar")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        pretrained.load(net, tmp_path, {})
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="is no safetensors file"):
        pretrained.load(net, tmp_path, {})


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
