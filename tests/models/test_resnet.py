"""ResNet: sizes, names of intermediates, shortcuts, group normalisation, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fairkd_jax.models.layers import GroupNorm
from fairkd_jax.models.net import make_net
from fairkd_jax.models.resnet import ResNet
from fairkd_jax.models.tape import Tape
from fairkd_jax.registry import UnknownName

FACTS = {"image": {"height": 8, "width": 8, "channels": 3, "identity": "image"}}


def resnet(num_classes=10, facts=FACTS, **options):
    return make_net({"name": "resnet"} | options, num_classes, facts)


def images(rows, size=8):
    pixels = np.random.default_rng(0).normal(size=(rows, size, size, 3))
    return {"views": {"image": {"pixels": jnp.asarray(pixels, jnp.float32)}}}


def test_names_of_intermediates():
    net = resnet(preset="mini", widths=(4, 8), stem_width=4)
    batch, names = images(2), []

    def forward(variables):
        outputs, _ = net.apply(variables, batch, train=False, save=".*")
        names.extend(outputs.taps)
        return outputs

    taps = jax.jit(forward)(jax.jit(net.init)(jax.random.key(0))).taps
    blocks = [
        f"stage{s}/block{b}/{x}" for s in (1, 2) for b in (1, 2) for x in ("branch_out", "out")
    ]
    assert names == ["input", "stem", *blocks, "features"]
    assert taps["stem"].shape == taps["stage1/block2/out"].shape == (2, 8, 8, 4)
    assert taps["stage2/block2/out"].shape == (2, 4, 4, 8)
    np.testing.assert_allclose(
        taps["features"], taps["stage2/block2/out"].mean((1, 2)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "preset, num_classes, parameters",
    [
        ("18", 1000, 11689512),
        ("34", 1000, 21797672),
        ("50", 1000, 25557032),
        ("101", 1000, 44549160),
        ("152", 1000, 60192808),
        ("cifar20", 10, 269722),
        ("cifar32", 10, 464154),
        ("cifar44", 10, 658586),
        ("cifar56", 10, 853018),
    ],
)
def test_presets_have_the_published_sizes(preset, num_classes, parameters):
    assert resnet(num_classes, preset=preset).num_parameters() == parameters


def test_shortcut_by_padding_puts_zeros_on_both_sides():
    net = resnet(preset="tiny", depths=(1, 1), widths=(4, 8), stem_width=4)
    variables = jax.jit(net.init)(jax.random.key(0))
    last = variables["params"]["stage2"]["block1"]["conv2"]["norm"]
    last["scale"] = jnp.zeros_like(last["scale"])  # nothing but the shortcut is left
    taps = net.apply(variables, images(2), train=False, save="stage./block1/out")[0].taps
    out = taps["stage2/block1/out"]
    np.testing.assert_array_equal(out[..., 2:6], taps["stage1/block1/out"][:, ::2, ::2])
    np.testing.assert_array_equal(out[..., [0, 1, 6, 7]], 0.0)


def test_other_images_do_not_change_an_answer_in_evaluation():
    net = resnet(preset="tiny")
    variables = jax.jit(net.init)(jax.random.key(0))
    batch = images(4)
    alone = {"views": {"image": {"pixels": batch["views"]["image"]["pixels"][:1]}}}
    together, _ = net.apply(variables, batch, train=False)
    np.testing.assert_allclose(
        net.apply(variables, alone, train=False)[0].logits,
        together.logits[:1],
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("width, groups", [(64, 32), (48, 16), (8, 8), (7, 1)])
def test_group_normalisation(width, groups):
    norm, reference = (
        GroupNorm(width, "float32"),
        nnx.GroupNorm(width, groups, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0)),
    )
    rng = np.random.default_rng(0)
    for name in ("scale", "bias"):
        value = jnp.asarray(rng.normal(size=width), jnp.float32)
        getattr(norm, name)[...] = value
        getattr(reference, name)[...] = value
    x = jnp.asarray(rng.normal(2.0, 3.0, (2, 3, 2, width)), jnp.float32)
    np.testing.assert_allclose(norm(x, Tape()), reference(x), rtol=1e-5, atol=1e-5)
    assert GroupNorm(width, "bfloat16")(x, Tape()).dtype == jnp.bfloat16


def test_with_groups_training_is_evaluation_and_examples_are_alone():
    net = resnet(preset="mini", norm="group")
    variables = jax.jit(net.init)(jax.random.key(0))
    assert not jax.tree.leaves(variables["stats"])
    apply = jax.jit(net.apply, static_argnames="train")
    batch = images(4)
    evaluated, _ = apply(variables, batch, train=False)
    trained, _ = apply(variables, batch, train=True)
    np.testing.assert_allclose(trained.logits, evaluated.logits, rtol=1e-6)
    others = {"views": {"image": {"pixels": batch["views"]["image"]["pixels"].at[1:].set(5.0)}}}
    np.testing.assert_allclose(
        apply(variables, others, train=True)[0].logits[0], trained.logits[0], rtol=1e-5, atol=1e-6
    )


def test_norm_by_groups_is_published_in_the_names_of_torchvision_alone():
    names = resnet(preset="18", norm="group").architecture.published_names()
    assert [n["head"] for n in names] == ["fc", "linear"]
    assert names[0]["stem/norm"] == "bn1"
    assert names == resnet(preset="18").architecture.published_names()[2:]


@pytest.mark.parametrize("preset", ["18", "50"])
def test_configs_there_and_back(preset):
    architecture = resnet(preset=preset).architecture
    assert ResNet.from_config(architecture.to_config()) == architecture


def test_configs_that_are_refused():
    config = resnet(preset="50").architecture.to_config()
    with pytest.raises(ValueError, match="hidden_act = 'gelu'; only"):
        ResNet.from_config(config | {"hidden_act": "gelu"})
    assert ResNet.from_config(config | {"downsample_in_bottleneck": True}).early_stride
    with pytest.raises(
        ValueError,
        match=r"stem = 'plain': transformers has .* only 'pooled'.* 18, 34, 50, 101, 152 with",
    ):
        resnet(preset="cifar20").architecture.to_config()
    with pytest.raises(ValueError, match=r"norm = 'group': transformers has .* only 'batch'"):
        resnet(preset="18", norm="group").architecture.to_config()


def test_sizes_that_do_not_go_together():
    assert resnet(preset="tiny").architecture.channels == 3
    with pytest.raises(ValueError, match="channels = 1, but the images have 3"):
        resnet(preset="tiny", channels=1)
    with pytest.raises(ValueError, match=r"depths \(1,\) and widths \(8, 16\) differ"):
        resnet(preset="tiny", depths=(1,))
    with pytest.raises(ValueError, match=r"\(8, 8, 13\): shortcuts by padding"):
        resnet(preset="tiny", widths=(8, 13))
    for option, choices in (
        ("block", "basic, bottleneck"),
        ("stem", "plain, pooled"),
        ("shortcut", "padding, projection"),
        ("norm", "batch, group"),
    ):
        with pytest.raises(UnknownName, match=f"{option} of resnet: 'other'.*{choices}"):
            resnet(preset="tiny", **{option: "other"})
