"""Weights in the names of timm, beside its config: its logits, its arguments, what is refused.

The logits are those of timm 1.0.31 in float64, with the very weights that are made here.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairkd_jax.models import pretrained
from fairkd_jax.models.net import make_net
from fairkd_jax.models.resnet import ResNet
from fairkd_jax.models.vit import ViT
from fairkd_jax.registry import UnknownName
from tests.models.test_pretrained import FACTS, assert_equal, random_variables, small, write

SMALL = {"img_size": [8, 8], "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2}
DISTILLED = "deit_tiny_distilled_patch16_224"


def folder(tmp_path, net, architecture, **arguments):
    """What timm writes: weights, and a config with the arguments of `create_model`."""
    variables = random_variables(net)
    tensors = pretrained.to_published(net, variables, -1)
    write(tensors, tmp_path / "model.safetensors")
    config = {
        "architecture": architecture,
        "num_classes": 3,
        "global_pool": arguments.get("global_pool", "token"),
        "model_args": {"num_classes": 3, "in_chans": 3} | arguments,
        "pretrained_cfg": {"input_size": [3, 8, 8], "fixed_input_size": True},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return variables, tensors


@pytest.mark.parametrize(
    ("architecture", "options", "arguments", "logits"),
    [
        ("vit_tiny_patch16_224", {}, {}, (10.188629777572, -10.998373523643, 6.047060632)),
        (
            "vit_tiny_patch16_224",
            {"pooling": "mean"},
            {"global_pool": "avg", "fc_norm": False},
            (-0.617104703661, -10.973580117822, 8.639927249045),
        ),
        (DISTILLED, {"distillation": "head"}, {}, (-0.544549500308, -5.794587687385, -3.434855783)),
    ],
)
def test_a_vit_of_timm(architecture, options, arguments, logits, tmp_path):
    net = small("vit", **options)
    variables, tensors = folder(tmp_path, net, f"{architecture}.tag", **SMALL, **arguments)
    assert tensors["blocks.1.attn.qkv.weight"].shape == (24, 8)
    again = make_net({"name": "vit", "pretrained": str(tmp_path)}, 3, FACTS)
    expected = {"dropout": 0.0, "epsilon": 1e-6} | options
    assert again == small("vit", **expected)
    loaded = pretrained.load(again, tmp_path, again.variable_shapes())
    assert_equal(loaded, variables)
    pixels = np.linspace(-1, 1, 192).reshape(1, 3, 8, 8).transpose(0, 2, 3, 1)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), loaded)
        batch = {"views": {"image": {"pixels": jnp.asarray(pixels)}}}
        ours = again.apply(wide, batch, train=False)[0].logits
    np.testing.assert_allclose(ours[0], logits, rtol=2e-6)  # features and logits are float32


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("vit_tiny_patch16_384", (12, 192, 3, 768, 16, (384, 384), "none")),
        ("vit_small_patch32_224.augreg_in21k", (12, 384, 6, 1536, 32, (224, 224), "none")),
        ("vit_base_patch8_224", (12, 768, 12, 3072, 8, (224, 224), "none")),
        ("vit_large_patch16_224", (24, 1024, 16, 4096, 16, (224, 224), "none")),
        ("deit_base_distilled_patch16_384", (12, 768, 12, 3072, 16, (384, 384), "head")),
    ],
)
def test_the_name_says_the_sizes(name, sizes):
    vit = ViT.from_config({"architecture": name, "pretrained_cfg": {"input_size": [1, 8, 8]}})
    read = vit.depth, vit.width, vit.heads, vit.mlp_width, vit.patch, vit.image, vit.distillation
    assert read == sizes
    assert (vit.channels, vit.qkv_bias, vit.epsilon, vit.pooling) == (1, True, 1e-6, "cls")
    bare = ViT.from_config({"architecture": name}, ["cls_token", "blocks.0.norm1.weight"])
    assert bare.distillation == {"head": "token"}.get(vit.distillation, "none")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"act_layer": "relu", "reg_tokens": 4}, "'relu'; only 'gelu' .*reg_tokens = 4; only 0 is"),
        ({"qk_nrom": True}, r"arguments .*qk_nrom = True is not known; known are .*embed_dim"),
        ({"global_pool": "map"}, r"global_pool in timm config: 'map'.*avg, token"),
        ({"global_pool": "avg"}, "fc_norm = True; only False"),
        ({"fc_norm": True}, "fc_norm = True; only False"),
        ({"patch_size": [4, 8]}, r"patch_size = \(4, 8\); only \(4, 4\)"),
    ],
)
def test_other_vits_of_timm_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        ViT.from_config({"architecture": "vit_tiny_patch16_224", "model_args": arguments})


@pytest.mark.parametrize(
    "name", ["vit_base_patch32_clip_224", "vit_giant_patch14_224", "deit3_small_patch16_224"]
)
def test_other_architectures_of_timm_are_refused(name):
    with pytest.raises(UnknownName, match=rf"{name}'.*deit_small_patchP_PIXELS.*vit_tiny_patchP"):
        ViT.from_config({"architecture": name})


def test_pooling_is_told_by_the_keys_where_the_config_is_silent():
    config = {"architecture": "vit_tiny_patch16_224", "global_pool": "avg"}
    assert ViT.from_config(config, ["cls_token", "norm.weight"]).pooling == "mean"
    with pytest.raises(ValueError, match="fc_norm = True"):
        ViT.from_config(config, ["cls_token", "fc_norm.weight"])
    with pytest.raises(ValueError, match="fc_norm = True"):
        ViT.from_config(config)


def test_a_fused_tensor_of_another_size_is_refused(tmp_path):
    net = small("vit")
    _, tensors = folder(tmp_path, net, "vit_tiny_patch16_224", **SMALL)
    key = "blocks.0.attn.qkv.weight"
    for rows, told in (
        (12, r"misshapen: .*qkv\.weight\[0/3\] is \(4, 8\)"),
        (20, f"surplus: {key}\n?$"),
    ):
        write(tensors | {key: np.ones((rows, 8))}, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=told):
            pretrained.check(net, tmp_path)
    del tensors[key]
    write(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing: blocks\.0\.attn\.qkv\.weight\[2/3\]"):
        pretrained.check(net, tmp_path)


def test_a_resnet_beside_a_config_of_timm(tmp_path):
    config = {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": {"mean": [0.5]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    net = make_net({"name": "resnet", "preset": 18}, 3, FACTS)
    tensors = pretrained.to_published(net, random_variables(net), 2)
    write(tensors, tmp_path / "model.safetensors")
    again = make_net({"name": "resnet", "pretrained": str(tmp_path)}, 3, FACTS)
    assert again == net
    pretrained.check(again, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet26d"}))
    with pytest.raises(ValueError, match=rf"beside {tmp_path}: .*: 'resnet26d'.*resnet18"):
        make_net({"name": "resnet", "pretrained": str(tmp_path)}, 3, FACTS)
    config = {"architecture": "resnet18", "model_args": {"in_chans": 1, "drop_path_rate": 0.1}}
    assert ResNet.from_config(config) == ResNet(**ResNet.presets["18"], channels=1)
    config["model_args"] = {"output_stride": 16, "global_pool": "max", "aa_layer": "blur"}
    told = r"output_stride = 16; only 32 .*'max'; only 'avg' .*aa_layer = 'blur' is not known"
    with pytest.raises(ValueError, match=told):
        ResNet.from_config(config)
