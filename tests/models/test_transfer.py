"""Weights of a teacher in its student: which layers, which units, and what cannot be."""

import json

import jax
import numpy as np
import pytest

from fairkd_jax import registry, sharding
from fairkd_jax.config import Transfer
from fairkd_jax.models.net import make_net
from fairkd_jax.models.transfer import plan, transfer
from fairkd_jax.registry import UnknownName

FACTS = {
    "wordpiece": {"vocab_size": 20, "length": 6, "identity": "words"},
    "unigram": {"vocab_size": 20, "length": 6, "identity": "pieces"},
    "image": {"height": 8, "width": 8, "channels": 3, "identity": "image"},
}
SMALL = {"width": 8, "heads": 2, "depth": 2}


def net(name="bert", classes=3, facts=FACTS, **options):
    return make_net({"name": name, "preset": "tiny"} | options, classes, facts)


def weights(net, seed=0):
    """Variables without two equal numbers, statistics included."""
    rng, shapes = np.random.default_rng(seed), net.variable_shapes()
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def leaves(tree):
    named = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(x) for p, x in named}


def moved(source, target, **how):
    """(teacher's variables, the student's before, and after), by path."""
    given, fresh = weights(source), weights(target, seed=1)
    made, _ = transfer(source, given, target, fresh, Transfer(**how))
    assert jax.tree.structure(made) == jax.tree.structure(fresh)
    return leaves(given), leaves(fresh), leaves(made)


# Which layers


@pytest.mark.parametrize(
    "rule, many, few, chosen",
    [
        ("first", 6, 3, (0, 1, 2)),
        ("last", 6, 3, (3, 4, 5)),
        ("every", 6, 3, (0, 2, 4)),
        ("first", 12, 4, (0, 1, 2, 3)),
        ("last", 12, 4, (8, 9, 10, 11)),
        ("every", 12, 4, (0, 3, 6, 9)),
        ("every", 12, 5, (0, 2, 4, 7, 9)),
        ("first", 4, 4, (0, 1, 2, 3)),
        ("last", 4, 4, (0, 1, 2, 3)),
        ("every", 4, 4, (0, 1, 2, 3)),
    ],
)
def test_layers_of_a_stack(rule, many, few, chosen):
    made = plan(net(depth=many), net(depth=few), Transfer(layers=rule))
    assert made.layers == {f"block{i:02}": f"block{j:02}" for i, j in enumerate(chosen)}


def test_the_first_block_of_a_stage_stands_for_itself_alone():
    teacher, student = (net("resnet", depths=d, widths=(8, 16)) for d in ((11, 12), (2, 3)))
    layers = plan(teacher, student, Transfer(layers="last")).layers
    assert layers == {
        "stage1/block1": "stage1/block10",  # by number: block9 comes before block10
        "stage1/block2": "stage1/block11",
        "stage2/block1": "stage2/block1",
        "stage2/block2": "stage2/block11",
        "stage2/block3": "stage2/block12",
    }
    large, small = (net("resnet", preset=p) for p in ("34", "18"))
    every = plan(large, small, Transfer(layers="every")).layers
    assert every == {k: k for k in every} | {"stage1/block2": "stage1/block2"}
    assert plan(large, small, Transfer(layers="last")).layers["stage3/block2"] == "stage3/block6"


def test_listed_layers_and_no_others():
    teacher, student = net(**SMALL | {"depth": 4}), net(**SMALL)
    given, fresh, made = moved(teacher, student, layers={"block01": "block03"})
    for path, value in made.items():
        origin = given.get(path.replace("block01", "block03"))
        np.testing.assert_array_equal(value, fresh[path] if "block00" in path else origin)


# Which units


def test_equal_sizes_copy_everything():
    for one in (net(**SMALL), net("resnet")):
        given, _, made = moved(one, one, layers="every", width="norm")
        assert given.keys() == made.keys()
        for path, value in made.items():
            np.testing.assert_array_equal(value, given[path])


def test_equal_widths_copy_layers_whole():
    given, _, made = moved(net(**SMALL | {"depth": 6}), net(**SMALL | {"depth": 3}))
    for path, value in made.items():
        origin = path.replace("block02", "block04").replace("block01", "block02")
        np.testing.assert_array_equal(value, given[origin])


def expected(given, many, width, heads, units, inner, pooled):
    """A BERT block, the embeddings and the head cut by given indices, written out."""
    h = (np.asarray(heads)[:, None] * many + np.asarray(units)).reshape(-1)
    block, w = "params/block00", np.asarray(width)
    found = {
        "params/embed/position/embedding": given["params/embed/position/embedding"][:4][:, w],
        "params/pooler/kernel": given["params/pooler/kernel"][w][:, pooled],
        "params/pooler/bias": given["params/pooler/bias"][pooled],
        "params/head/kernel": given["params/head/kernel"][pooled],
        "params/head/bias": given["params/head/bias"],
        f"{block}/attn_out/kernel": given[f"{block}/attn_out/kernel"][h][:, w],
        f"{block}/mlp_in/kernel": given[f"{block}/mlp_in/kernel"][w][:, inner],
        f"{block}/mlp_in/bias": given[f"{block}/mlp_in/bias"][inner],
        f"{block}/mlp_out/kernel": given[f"{block}/mlp_out/kernel"][inner][:, w],
    }
    for name in ("query", "key", "value"):
        found[f"{block}/{name}/kernel"] = given[f"{block}/{name}/kernel"][w][:, h]
        found[f"{block}/{name}/bias"] = given[f"{block}/{name}/bias"][h]
    for name in ("embed/word/embedding", "embed/segment/embedding"):
        found[f"params/{name}"] = given[f"params/{name}"][:, w]
    norms = [f"{n}/{v}" for n in ("attn_norm", "mlp_norm") for v in ("scale", "bias")]
    biases = [f"{n}/bias" for n in ("attn_out", "mlp_out")]
    for name in ("embed/norm/scale", "embed/norm/bias", *(f"block00/{n}" for n in norms + biases)):
        found[f"params/{name}"] = given[f"params/{name}"][w]
    return found


WIDE = {"depth": 1, "width": 12, "heads": 3, "mlp_width": 10, "positions": 6}  # heads of 4 units
THIN = {"depth": 1, "width": 4, "heads": 2, "mlp_width": 5, "positions": 4}  # of 2
NARROW = {"wordpiece": FACTS["wordpiece"] | {"length": 4}}


def check_cut(given, made, **indices):
    wanted = expected(given, 4, **indices)
    assert wanted.keys() == made.keys()
    for path, value in made.items():
        np.testing.assert_array_equal(value, wanted[path], err_msg=path)


def test_the_first_units_and_the_first_heads():
    given, _, made = moved(net(**WIDE), net(facts=NARROW, **THIN))
    first = {"heads": range(2), "units": [[0, 1], [0, 1]], "inner": np.arange(5)}
    check_cut(given, made, width=range(4), pooled=np.arange(4), **first)


def test_the_largest_units_and_the_largest_heads():
    given, _, made = moved(net(**WIDE), net(facts=NARROW, **THIN), width="norm")
    block = {k.removeprefix("params/block00/"): v for k, v in given.items() if "block00" in k}

    def squares(x, axis):
        """Of each slice along an axis."""
        return (np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) ** 2).sum(1)

    def largest(x, count):
        return np.sort(np.argsort(-x)[:count])

    width = sum(
        squares(x, axis)
        for path, x in given.items()
        for axis, n in enumerate(x.shape)
        # All that is 12 long but what attention has inside and what the pooler gives.
        if n == 12
        and not (axis == x.ndim - 1 and any(f"/{k}/" in path for k in ("query", "key", "value")))
        and not (axis == 0 and "attn_out/kernel" in path)
        and not (axis == x.ndim - 1 and "pooler" in path)
        and not (axis == 0 and "head/kernel" in path)
    )
    inside = squares(block["attn_out/kernel"], 0) + sum(
        squares(block[f"{n}/kernel"], 1) + block[f"{n}/bias"] ** 2
        for n in ("query", "key", "value")
    )
    inside = inside.reshape(3, 4)
    heads = largest(inside.sum(1), 2)
    inner = squares(block["mlp_in/kernel"], 1) + block["mlp_in/bias"] ** 2
    inner += squares(block["mlp_out/kernel"], 0)
    pooled = squares(given["params/pooler/kernel"], 1) + given["params/pooler/bias"] ** 2
    pooled += squares(given["params/head/kernel"], 0)
    check_cut(
        given,
        made,
        width=largest(width, 4),
        heads=heads,
        units=[largest(inside[i], 2) for i in heads],
        inner=largest(inner, 5),
        pooled=largest(pooled, 4),
    )


def test_statistics_are_cut_as_the_channels_that_they_are_of():
    teacher, student = net("resnet", widths=(8, 16)), net("resnet", widths=(8, 12), stem_width=8)
    given, _, made = moved(teacher, student, width="norm")
    path = "params/stage2/block1/conv1/norm/scale"
    kept = [int(np.flatnonzero(given[path] == x)[0]) for x in made[path]]
    assert len(kept) == 12 and kept == sorted(kept)
    for name in ("mean", "var"):
        path = f"stats/stage2/block1/conv1/norm/{name}"
        np.testing.assert_array_equal(made[path], given[path][kept])


def test_embeddings_and_head_may_stay_fresh():
    teacher = net(**SMALL)
    given, fresh, made = moved(teacher, teacher, embeddings=False, head=False)
    for path, value in made.items():
        stays = path.startswith(("params/embed/", "params/head/"))
        np.testing.assert_array_equal(value, (fresh if stays else given)[path])
    made = plan(teacher, net(classes=2, **SMALL), Transfer())
    assert made.record()["fresh"] == ["head"]
    assert made.copied == made.parameters - (8 + 1) * 2
    assert made.lines() == [
        "layers, every: block00 <- block00, block01 <- block01",
        f"copied {made.copied:,} of {made.parameters:,} parameters",
        "fresh: head",
    ]


def test_what_was_done_is_told():
    made = plan(net(**WIDE), net(facts=NARROW, **THIN), Transfer(width="norm"))
    assert json.loads(json.dumps(made.record()))["axes"] == {
        "#positions": "6 -> 4",
        "block*.heads": "3 x 4 -> 2 x 2",
        "block*.inner": "10 -> 5",
        "pooled": "12 -> 4",
        "width": "12 -> 4",
    }
    assert "axis block*.heads: 3 x 4 -> 2 x 2, by norm" in made.lines()


def test_weights_stay_where_the_students_were():
    mesh = sharding.make_mesh(fsdp=2)
    teacher, student = net(width=256, heads=4), net(width=128, heads=2, facts=FACTS)

    def born(one):
        places = sharding.state_shardings(one.variable_shapes(), mesh)
        return jax.jit(one.init, out_shardings=places)(jax.random.key(0))

    fresh = born(student)
    made, _ = transfer(teacher, born(teacher), student, fresh, Transfer())
    assert jax.tree.all(jax.tree.map(lambda a, b: a.sharding == b.sharding, made, fresh))
    assert not all(x.sharding.is_fully_replicated for x in jax.tree.leaves(made))


# What holds for every family


@pytest.mark.parametrize("name", registry.available("models"))
def test_axes_are_those_of_the_variables_and_of_one_length(name):
    one = net(name)
    names, parts, lengths = one.architecture.axes(), one.architecture.parts(), {}
    for path, value in leaves(weights(one)).items():
        alone = path.split("/", 1)[1]
        axes = names.get(alone) or names[alone.rsplit("/", 1)[0]]
        assert value.ndim in (1, len(axes)), path
        for axis, length in zip(axes[-value.ndim :], value.shape):
            layer = alone.rpartition("block")[0] + alone.rpartition("block")[2].split("/")[0]
            lengths.setdefault((axis, layer if axis.startswith(".") else ""), set()).add(length)
    for (axis, _), found in lengths.items():
        assert not axis or len(found - {parts.get(axis)}) <= 1, (axis, found)


SMALLER = {  # than the tiny preset: sizes and depths
    "bert": {"depth": 1, "width": 64, "heads": 1, "mlp_width": 100},
    "resnet": {"depths": (1, 1), "widths": (4, 8), "stem_width": 4},
    "vit": {"depth": 1, "width": 32, "heads": 1},
    "t5": {"depth": 1, "width": 32, "heads": 1, "head_width": 16, "mlp_width": 64},
}


@pytest.mark.parametrize("width", ["index", "norm"])
@pytest.mark.parametrize("name", registry.available("models"))
def test_every_family_to_a_smaller_one(name, width):
    teacher, student = net(name), net(name, **SMALLER[name])
    given, _, made = moved(teacher, student, width=width)
    shapes = leaves(jax.tree.map(lambda x: np.empty(x.shape, bool), student.variable_shapes()))
    assert {k: v.shape for k, v in made.items()} == {k: v.shape for k, v in shapes.items()}
    everything = np.concatenate([v.reshape(-1) for v in given.values()])
    for path, value in made.items():
        assert np.isin(value, everything).all(), path


# What cannot be


@pytest.mark.parametrize(
    "teacher, student, how, message",
    [
        (net(), net("resnet"), {}, "from Bert to ResNet: they must be of one family"),
        (net(), net(), {"layers": "even"}, r"transfer.layers: 'even'.*Did you mean 'every'"),
        (net(), net(), {"width": "random"}, r"transfer.width: 'random'.*index, norm"),
        (net(), net(), {"layers": {"block02": "block00"}}, r"student.*'block02'.*block00, block01"),
        (net(), net(), {"layers": {"block00": "block9"}}, r"teacher.*'block9'.*block00, block01"),
        (net(depth=2), net(depth=3), {}, "3 layers are like block00, in the teacher 2: .*list"),
        (
            net(facts={"wordpiece": {"vocab_size": 20, "length": 6, "identity": "others"}}),
            net(),
            {},
            "the teacher reads what others encodes, the student what words does.*embeddings=False",
        ),
        (
            net(vocab_size=30),
            net(),
            {},
            r"embed/word/embedding: axis 0 of \(20, 128\) must be the teacher's: \(30, 128\)",
        ),
        (
            net(width=32, heads=4),
            net(width=64, heads=2),
            {},
            r"(?s)width is longer than in the teacher: 32 -> 64"
            r".*block00.heads is longer than in the teacher: 4 x 8 -> 2 x 32"
            r".*block00.inner is longer.*128 -> 256.*pooled",
        ),
        (
            net("resnet", preset="18"),
            net("resnet", preset="50"),
            {},
            r"stage1/block1 has .*conv3/conv/kernel .*projection.* where the teacher's stage1/b",
        ),
        (
            net("resnet", depths=(2, 2), widths=(8, 16)),
            net("resnet", depths=(2, 2), widths=(8, 16)),
            {"layers": {"stage2/block2": "stage2/block1"}},
            r"stage2/block2 has conv1/conv/kernel \('', '', 'stage2'.*block1 has .*'stem'",
        ),
        (
            net("resnet", preset="cifar20"),
            net("resnet", depths=(1, 1), widths=(16, 32), stem_width=16),
            {},
            r"params/head/kernel: axes \('stage2', ''\) are \('stage3', ''\) in the teacher",
        ),
        (
            net("resnet"),
            net("resnet", preset="cifar20"),
            {},
            r"stage3/block1: the teacher has no stage3/block\*",
        ),
    ],
)
def test_what_cannot_be_is_named(teacher, student, how, message):
    with pytest.raises(ValueError, match=message):
        plan(teacher, student, Transfer(**how))


def test_other_words_do_where_embeddings_stay_fresh():
    teacher = net(facts={"wordpiece": {"vocab_size": 30, "length": 6, "identity": "others"}})
    made = plan(teacher, net(), Transfer(embeddings=False))
    assert {path.split("/")[1] for path in made.fresh} == {"embed"}
    with pytest.raises(UnknownName):
        plan(teacher, net(), Transfer(embeddings=False, layers="none"))
