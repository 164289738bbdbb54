"""ViT and DeiT: patches, pooling, tokens, other image sizes, sizes and names as published."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from fairkd_jax.models import pretrained
from fairkd_jax.models.net import Net, make_net
from fairkd_jax.models.positions import bicubic
from fairkd_jax.models.vit import ViT
from fairkd_jax.registry import UnknownName

SMALL = {"patch": 4, "depth": 1, "width": 8, "heads": 2}


def facts(height, width, channels=3):
    return {"image": {"height": height, "width": width, "channels": channels}}


def vit(height=8, width_=12, num_classes=3, **options):
    return make_net({"name": "vit", **SMALL, **options}, num_classes, facts(height, width_))


def images(height=8, width=12, rows=2):
    pixels = np.random.default_rng(0).normal(size=(rows, height, width, 3))
    return {"views": {"image": {"pixels": jnp.asarray(pixels, jnp.float32)}}}


def random_variables(net, seed=0):
    """Far from how they begin, biases too."""
    rng = np.random.default_rng(seed)
    draw = lambda s: rng.normal(size=s.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, net.variable_shapes())


def run(net, variables, batch, **options):
    return net.apply(variables, batch, train=False, **options)[0]


def normal(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def test_names_and_shapes_of_intermediates():
    net = vit(depth=2)
    taps = run(net, random_variables(net), images(), save=".*").taps
    attention = [f"attn_{part}" for part in ("query", "key", "value", "scores", "probs")]
    inside = (*attention, "head_out", "attn_out", "mlp_out", "out")
    blocks = [f"block{i:02}/{name}" for i in range(2) for name in inside]
    assert list(taps) == ["input", "embed", *blocks, "features"]
    assert taps["block00/attn_probs"].shape == (2, 2, 7, 7)  # 2 x 3 patches and the class token
    assert taps["block00/head_out"].shape == (2, 7, 2, 4)
    for name in ("embed", "block01/attn_out", "block01/mlp_out", "block01/out"):
        assert taps[name].shape == (2, 7, 8)


def test_patches_equal_a_convolution_with_their_stride():
    net = vit()
    variables, batch = random_variables(net), images()
    embed = variables["params"]["embed"]
    want = jax.lax.conv_general_dilated(
        batch["views"]["image"]["pixels"],
        embed["patch"]["kernel"],
        (4, 4),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ).reshape(2, 6, 8)
    got = run(net, variables, batch, save="embed").taps["embed"] - embed["position"]
    np.testing.assert_allclose(got[:, 1:] - embed["patch"]["bias"], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got[:, :1], np.tile(embed["cls"], (2, 1, 1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options, read",
    [
        ({"pooling": "cls"}, lambda x: x[:, 0]),
        ({"pooling": "mean"}, lambda x: x[:, 1:].mean(1)),
        ({"distillation": "token"}, lambda x: x[:, 0]),
        ({"distillation": "head"}, lambda x: x[:, :2].reshape(len(x), -1)),
    ],
)
def test_features_are_what_the_head_reads(options, read):
    net = vit(**options)
    variables = random_variables(net)
    outputs = run(net, variables, images(), save="block00/out")
    norm, head = variables["params"]["norm"], variables["params"]["head"]
    tokens = normal(np.asarray(outputs.taps["block00/out"])) * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(outputs.features, read(tokens), rtol=1e-4, atol=1e-5)
    features = np.split(np.asarray(outputs.features), 2 if "cls" in head else 1, axis=1)
    heads = (head["cls"], head["distill"]) if "cls" in head else (head,)
    logits = [x @ h["kernel"] + h["bias"] for x, h in zip(features, heads)]
    np.testing.assert_allclose(outputs.logits, np.mean(logits, 0), rtol=1e-4, atol=1e-5)


def test_distillation_token_stands_behind_the_class_token():
    net = vit(distillation="token")
    variables = random_variables(net)
    embed = variables["params"]["embed"]
    assert embed["position"].shape == (1, 2 + 6, 8)
    got = run(net, variables, images(), save="embed").taps["embed"] - embed["position"]
    np.testing.assert_allclose(got[0, 1], embed["distill"][0, 0], rtol=1e-5, atol=1e-6)
    plain = vit()
    assert net.num_parameters() == plain.num_parameters() + 2 * 8
    two = vit(distillation="head")
    assert two.num_parameters() == net.num_parameters() + 3 * 8 + 3


def test_interpolation_by_cubic_convolution():
    for source, target in itertools.product((1, 2, 3, 7), (1, 2, 5, 14)):
        np.testing.assert_allclose(bicubic(source, target).sum(1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(bicubic(5, 5), np.eye(5), atol=1e-12)
    # torch 2.13: interpolate(torch.eye(3)[None, :, :, None], size=(5, 1), mode="bicubic",
    #     align_corners=False)[0, :, :, 0].T
    want = [
        (1.096, -0.096, 0.0),
        (0.612, 0.46, -0.072),
        (0.0, 1.0, 0.0),
        (-0.072, 0.46, 0.612),
        (0.0, -0.096, 1.096),
    ]
    np.testing.assert_allclose(bicubic(3, 5), want, atol=1e-6)


# transformers 5.24: ViTEmbeddings(ViTConfig(image_size=12, patch_size=4, hidden_size=2)) with
# position_embeddings = (torch.arange(20.) ** 2 % 7).reshape(1, 10, 2):
# interpolate_pos_encoding(torch.zeros(1, 1 + height * width // 16, 2), height, width)[0, :, 0]
INTERPOLATED = {
    (16, 16): (
        *(0.0, 4.374343, 2.931819, 1.31867, 0.697435, 2.220393, 1.779012, 2.22466, 3.236174),
        *(0.137029, 1.754445, 3.305603, 3.672638, -0.374343, 2.875823, 3.782501, 1.692283),
    ),
    (8, 20): (
        *(0.0, 3.492344, 2.815202, 1.929688, 1.717063, 1.73275),
        *(-0.207781, 1.521454, 3.546875, 3.188703, 2.463719),
    ),
}


@pytest.mark.parametrize("size", INTERPOLATED)
def test_positions_are_interpolated_as_published(size):
    table = (np.arange(20.0) ** 2 % 7).reshape(1, 10, 2).astype(np.float32)
    want = INTERPOLATED[size]
    architecture = ViT(patch=4).fit(facts(*size)["image"])
    got = architecture.adapt("embed/position", table, (1, len(want), 2))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[0, :, 0], want, atol=2e-6)  # printed to 6 decimals
    deit = dataclasses.replace(architecture, distillation="token")
    longer = np.concatenate([table[:, :1] + 9, table], axis=1)  # one more that stays
    both = deit.adapt("embed/position", longer, (1, len(want) + 1, 2))
    np.testing.assert_array_equal(both, np.concatenate([longer[:, :1], got], axis=1))
    for path, array, shape in (
        ("embed/cls", table, (1, len(want), 2)),
        ("embed/position", table[:, :-1], (1, len(want), 2)),  # 8 patches are no square
        ("embed/position", table[:, :1], (1, len(want), 2)),
        ("embed/position", table, (1, len(want), 3)),
        ("embed/position", table[0], (1, len(want), 2)),
    ):
        assert architecture.adapt(path, array, shape) is None


@pytest.mark.parametrize("distillation", ["none", "token", "head"])
def test_there_and_back_in_every_dialect(distillation, tmp_path):
    net = vit(8, 8, distillation=distillation)
    variables, body = random_variables(net), "vit." if distillation == "none" else "deit."
    stays = "embeddings.position_embeddings"
    for dialect, prefix in enumerate((body, "", body, "")):
        tensors = pretrained.to_published(net, variables, dialect)
        assert tensors[f"{prefix}embeddings.cls_token"].shape == (1, 1, 8)
        assert tensors[f"{prefix}{stays}"].shape == (1, 4 + net.architecture.lead, 8)
        kernel = tensors[f"{prefix}embeddings.patch_embeddings.projection.weight"]
        assert kernel.shape == (8, 3, 4, 4)
        tensors[f"{prefix}pooler.dense.bias"] = np.zeros(8, np.float32)
        file = tmp_path / f"{dialect}.safetensors"
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, file)
        back = pretrained.load(net, file, random_variables(net, 1))
        jax.tree.map(np.testing.assert_array_equal, back, variables)
    larger = vit(12, 16, distillation=distillation)  # the same weights, another image
    adapted = pretrained.load(larger, file, random_variables(larger, 1))
    table, old = (v["params"]["embed"]["position"] for v in (adapted, variables))
    lead = net.architecture.lead
    assert table.shape == (1, lead + 12, 8)
    np.testing.assert_array_equal(table[:, :lead], old[:, :lead])
    assert np.isfinite(run(larger, adapted, images(12, 16)).logits).all()


@pytest.mark.parametrize(
    "preset, size, num_classes, parameters",  # counted in ViTForImageClassification
    [
        ("ti16", 224, 1000, 5717416),
        ("s16", 224, 1000, 22050664),
        ("b16", 224, 1000, 86567656),
        ("l16", 224, 1000, 304326632),
        ("small32", 32, 100, 2714980),
        ("small64", 64, 100, 2742628),
    ],
)
def test_presets_have_the_published_sizes(preset, size, num_classes, parameters):
    spec = {"name": "vit", "preset": preset}
    assert make_net(spec, num_classes, facts(size, size)).num_parameters() == parameters


@pytest.mark.parametrize("size", [8, 16, 32])
def test_tiny_fits_small_images(size):
    net = make_net({"name": "vit", "preset": "tiny"}, 2, facts(size, size))
    assert net.shapes(images(size, size)).logits.shape == (2, 2)


@pytest.mark.parametrize("distillation", ["none", "token", "head"])
def test_configs_there_and_back(distillation):
    architecture = vit(8, 8, distillation=distillation, qkv_bias=False, mlp_width=24).architecture
    config = architecture.to_config()
    assert config["image_size"] == 8 and config["intermediate_size"] == 24
    assert ViT.from_config(config) == architecture
    oblong = vit(8, 12, mlp_width=24).architecture
    assert ViT.from_config(oblong.to_config()) == oblong
    keys = {"head": ["distillation_classifier.weight"]}.get(distillation, ["classifier.weight"])
    assert ViT.from_config(config | {"architectures": None}, keys) == architecture


def test_configs_that_are_refused():
    config = vit(8, 8).architecture.to_config()
    with pytest.raises(ValueError, match="hidden_act = 'gelu_new'; only 'gelu' is there"):
        ViT.from_config(config | {"hidden_act": "gelu_new"})
    with pytest.raises(ValueError, match=r"patch_size = \(4, 8\); only \(4, 4\) is there"):
        ViT.from_config(config | {"patch_size": [4, 8]})
    with pytest.raises(ValueError, match="pooling = 'mean' has no published form"):
        vit(pooling="mean").architecture.to_config()


def test_sizes_that_do_not_go_together():
    assert vit(8, 12, image=(4, 4)).architecture.image == (8, 12)  # the data's
    with pytest.raises(ValueError, match=r"patch = 4 does not divide .* 6 x 12 .*: 1, 2, 3, 6"):
        vit(6, 12)
    with pytest.raises(ValueError, match="channels = 1, but the images have 3"):
        vit(channels=1)
    with pytest.raises(ValueError, match="width = 8 is no multiple of heads = 3"):
        vit(heads=3)
    with pytest.raises(ValueError, match="distillation = 'token' with pooling = 'mean'"):
        vit(pooling="mean", distillation="token")
    with pytest.raises(UnknownName, match=r"pooling of vit: 'max'.*cls, mean"):
        vit(pooling="max")
    with pytest.raises(UnknownName, match=r"distillation of vit: 'both'.*head, none, token"):
        vit(distillation="both")
    with pytest.raises(ValueError, match="image = None, channels = None: fit"):
        Net(ViT(**SMALL), 2, "image").variable_shapes()
    net = vit()
    with pytest.raises(ValueError, match=r"images of shape \(12, 8, 3\), but vit is for \(8, 12"):
        net.shapes(images(12, 8))


@pytest.mark.parametrize(
    "name",
    [
        "ViTForImageClassification",
        "DeiTForImageClassification",
        "DeiTForImageClassificationWithTeacher",
    ],
)
def test_transformers_agrees(name, tmp_path):
    """Both forms of its files, the images they are for, and others."""
    torch = pytest.importorskip("torch", reason="compares with the published code: needs torch")
    transformers = pytest.importorskip("transformers")
    cls = getattr(transformers, name)
    config = cls.config_class(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        num_labels=3,
    )
    torch.manual_seed(0)
    model = cls(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    for original, size in itertools.product((True, False), (32, 48)):
        folder = tmp_path / f"{original}{size}"
        model.save_pretrained(folder, save_original_format=original)
        batch = images(size, size)
        pixels = np.array(batch["views"]["image"]["pixels"])
        with torch.no_grad():
            given = torch.from_numpy(pixels.transpose(0, 3, 1, 2))
            want = model(given, interpolate_pos_encoding=True).logits.numpy()
        published = pretrained.architecture_from_config(folder)
        net = Net(published.fit(facts(size, size)["image"]), 3, "image")
        variables = pretrained.load(net, folder, random_variables(net))
        np.testing.assert_allclose(run(net, variables, batch).logits, want, rtol=1e-5, atol=1e-5)
