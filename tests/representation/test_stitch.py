"""Teachers' layers in students: maps as scikit-learn fits them, answers by hand, refusals."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.linear_model import Ridge

from fairkd_jax.models.bert import Bert
from fairkd_jax.models.net import Architecture, Net
from fairkd_jax.models.resnet import ResNet
from fairkd_jax.models.vit import ViT
from fairkd_jax.representation import linear_maps
from fairkd_jax.representation.kinds import BLOCKS, jackknife, stratified
from fairkd_jax.representation.stitch import SOURCES, stitch_nets
from fairkd_jax.sharding import make_mesh, put_batch, put_replicated
from fairkd_jax.types import Inputs, Outputs

ALIGNED = np.array([True, False, False, True])
RIDGE = 1e-3


class Reading(nnx.Module):
    """Answers by some of its pixels, which pass the tape."""

    def __init__(self, reads: tuple[int, ...], rngs: nnx.Rngs):
        self.reads, self.head = reads, nnx.Linear(len(reads), 2, rngs=rngs)

    def __call__(self, inputs, tape):
        x = inputs["pixels"].reshape(len(inputs["pixels"]), -1)[:, jnp.asarray(self.reads)]
        x = tape("block00/out", x)
        return Outputs(logits=self.head(x), features=x)


@dataclasses.dataclass(frozen=True)
class ReadingArchitecture(Architecture):
    reads: tuple[int, ...]
    view: ClassVar[str] = "image"
    presets: ClassVar[dict] = {}

    def fit(self, facts):
        return self

    def module(self, num_classes, rngs):
        return Reading(self.reads, rngs)


TEACHER, STUDENT = (Net(ReadingArchitecture(reads), 2, "image") for reads in ((0, 2, 4), (1, 3)))


def by_first(net: Net) -> dict:
    """Variables of a net that answers by the sign of the first pixel that it reads."""
    head = np.zeros((len(net.architecture.reads), 2), np.float32)
    head[0] = -1, 1
    params = {"head": {"kernel": jnp.asarray(head), "bias": jnp.zeros(2)}}
    return {"params": params, "stats": {}}


def batches(n: int, size: int, seed: int = 0, groups: tuple[int, ...] = (0, 1, 2, 3)) -> list[dict]:
    """Pixel 0 holds the label, pixel 1 the attribute; noise on all. Rows beyond n are not real."""
    random = np.random.default_rng(seed)
    group = random.choice(groups, n).astype(np.int32)
    x = random.normal(size=(n, 5)).astype(np.float32)
    x[:, 0] += 2 * (group // 2) - 1
    x[:, 1] += 2 * (group % 2) - 1
    rows = -(-n // size) * size
    pixels = np.full((rows, 1, 5, 1), np.nan, np.float32)
    pixels[:n, 0, :, 0] = x
    columns = {"group": np.resize(group, rows), "id": np.arange(rows, dtype=np.int32)}
    columns |= {"label": columns["group"] // 2, "real": (np.arange(rows) < n).astype(np.float32)}
    return [
        {k: v[i : i + size] for k, v in columns.items()}
        | {"views": {"image": {"pixels": pixels[i : i + size]}}}
        for i in range(0, rows, size)
    ]


def stitch(nets, to_fit, to_score, taps=(".*/out", ".*/out"), **options):
    variables = options.pop("variables", None) or tuple(
        net.init(jax.random.key(i)) for i, net in enumerate(nets)
    )
    told = {"aligned": ALIGNED, "fit_examples": 40, "examples": 200, "ridge": RIDGE} | options
    return stitch_nets(tuple(zip(nets, taps)), variables, to_fit, to_score, **told)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_maps_are_those_of_ridge_regression_whatever_the_batches(dtype):
    random = np.random.default_rng(0)
    x, y = (random.normal(size=(30, 4, width)) + 100 for width in (5, 3))
    y[..., 0] += 2 * x[..., 1]
    mask = random.random((30, 4)) < 0.7
    x, y = (np.where(mask[..., None], v, np.nan).astype(dtype) for v in (x, y))
    with jax.enable_x64(dtype == "float64"):
        parts = [slice(0, 7), slice(7, 8), slice(8, 30)]
        found = [linear_maps.moments(x[p], y[p], mask[p].astype(dtype)) for p in parts]
        first, *rest = [jax.tree.map(lambda v: np.asarray(v, np.float64), s) for s in found]
    for one in rest:
        first = linear_maps.merged(first, one)
    kernel, bias = linear_maps.solve(first, 0.1)
    rows = x[mask].astype(np.float64), y[mask].astype(np.float64)
    want = Ridge(0.1 * len(rows[0]) * rows[0].var(axis=0).mean()).fit(*rows)
    tolerance = {"rtol": 1e-9} if dtype == "float64" else {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(kernel, want.coef_.T, **tolerance)
    np.testing.assert_allclose(bias, want.intercept_, **tolerance)
    still = first | {"xx": 0 * first["xx"], "xy": 0 * first["xy"]}
    kernel, bias = linear_maps.solve(still, 0.1)
    assert not kernel.any() and np.array_equal(bias, first["y"])


@pytest.fixture(scope="module")
def found():
    """Maps of examples on which attribute and label agree, so that either tells the other."""
    given = batches(60, 32, groups=(0, 3)), batches(500, 128, seed=1)
    return stitch((TEACHER, STUDENT), *given, variables=(by_first(TEACHER), by_first(STUDENT)))


def test_answers_are_those_of_the_student_with_other_activations(found):
    (fit,), (scored,) = batches(60, 60, groups=(0, 3)), batches(500, 500, seed=1)
    kinds = [np.flatnonzero(ALIGNED[fit["group"]] == kind)[:40] for kind in (True, False)]
    x, y = (v["views"]["image"]["pixels"][:, 0, :, 0].astype(np.float64) for v in (fit, scored))
    x = x[np.concatenate(kinds)]
    assert found["n_fit_aligned"] == 40 and found["n_fit_conflicting"] == 0
    assert found["n_aligned"] == found["n_conflicting"] == 200
    own, theirs = STUDENT.architecture.reads, TEACHER.architecture.reads
    alpha = RIDGE * len(x) * x[:, theirs].var(axis=0).mean()
    put_in = Ridge(alpha).fit(x[:, theirs], x[:, own]).predict(y[:, theirs])
    rows = [np.flatnonzero(ALIGNED[scored["group"]] == kind)[:200] for kind in (True, False)]
    kept, label = np.sort(np.concatenate(rows)), scored["label"]
    by = {
        "teacher": (y[:, 0], found["teacher"]["by_group"]),
        "student": (y[:, 1], found["student"]["by_group"]),
        "patched": (put_in[:, 0], found["patched"]["teacher"]["by_group"][0]),
        "mean": (np.full(len(y), x[:, 1].mean()), found["patched"]["mean"]["by_group"][0]),
        "own": (y[:, 1], found["patched"]["own"]["by_group"][0]),
    }
    wrong = ~ALIGNED[scored["group"]]
    conflicting = {}
    for name, (sign, by_group) in by.items():
        right = ((sign > 0) == label)[kept]
        group = scored["group"][kept]
        want = [right[group == g].mean() for g in range(4)]
        np.testing.assert_allclose(by_group, want, atol=1e-12, err_msg=name)
        conflicting[name] = right[wrong[kept]].mean()
    one = found["patched"]["teacher"]
    np.testing.assert_allclose(one["conflicting"]["value"], conflicting["patched"])
    np.testing.assert_allclose(one["worst_group"]["value"], one["by_group"].min(axis=1))
    restored = conflicting["patched"] - conflicting["student"]
    gap = conflicting["teacher"] - conflicting["student"]
    np.testing.assert_allclose(one["restored"]["value"], restored)
    np.testing.assert_allclose(one["closed"]["value"], restored / gap)
    assert one["closed"]["low"] < 1 < one["closed"]["high"] + 0.1 and not found["undefined"]
    distance = ((put_in - y[:, own]) ** 2).sum(axis=1)
    mean = ((x[:, own].mean(axis=0) - y[:, own]) ** 2).sum(axis=1)
    for kind, of in zip(("aligned", "conflicting"), rows):
        want = 1 - distance[of].sum() / mean[of].sum()
        np.testing.assert_allclose(one[f"explained_{kind}"], want, rtol=1e-4)


def test_the_controls_say_what_maps_and_nothing_do(found):
    patched = found["patched"]
    assert [*patched] == [*SOURCES]
    assert abs(patched["own"]["restored"]["value"][0]) < 0.01
    assert patched["own"]["explained_conflicting"][0] > 0.999
    assert not patched["mean"]["explained_aligned"].any()
    assert patched["shuffled"]["explained_aligned"][0] < 0.2
    lone = sorted(patched["mean"]["by_group"][0])  # one answer for all
    np.testing.assert_array_equal(lone, [0, 0, 1, 1])


def test_where_no_gap_is_there_is_no_share_of_it_that_closes():
    given, pair = (batches(60, 60), batches(300, 300, seed=1)), (by_first(TEACHER),) * 2
    same = stitch((TEACHER, TEACHER), *given, variables=pair)
    assert same["undefined"].startswith("accuracy on conflicting examples leaves no gap to close")
    assert np.isnan(same["patched"]["teacher"]["closed"]["value"]).all()
    assert np.abs(same["patched"]["teacher"]["restored"]["value"]) < 0.01
    pair = (by_first(TEACHER), by_first(STUDENT))
    few = stitch((TEACHER, STUDENT), given[0], batches(12, 12, seed=7), variables=pair)
    one = few["patched"]["teacher"]
    assert "may be none: its interval" in few["undefined"] and np.isnan(one["closed"]["value"])
    assert np.isfinite(one["restored"]["low"])
    right = batches(40, 40, seed=2, groups=(0, 3))
    none = stitch((TEACHER, STUDENT), given[0], right, variables=pair)
    assert none["undefined"] == "no conflicting example was read"
    assert np.isnan(none["patched"]["teacher"]["conflicting"]["value"])
    assert np.isfinite(none["patched"]["teacher"]["aligned"]["low"])
    assert np.isnan(none["patched"]["own"]["by_group"][0][1:3]).all()


def test_blocks_of_kinds_are_left_out_in_turn():
    values = np.random.default_rng(0).normal(size=(2 * BLOCKS, 3))
    counts = {"aligned": 100, "conflicting": BLOCKS}
    of_kind = (np.arange(2 * BLOCKS) < BLOCKS)[:, None] * np.ones((1, 2))
    sums = {"x": values[:, :, None] * of_kind[:, None] * [1, 0], "n": of_kind * [1, 0]}
    sums["x"] += values[:, :, None] * (1 - of_kind)[:, None] * [0, 1]
    sums["n"] += (1 - of_kind) * [0, 1]

    def difference(s):
        return s["x"][..., 0] / s["n"][0] - s["x"][..., 1] / s["n"][1]

    def mean(s):
        return s["x"] / s["n"]

    ones = np.ones((BLOCKS, 1))
    apart = [
        jackknife(mean, {"x": values[at], "n": ones}, BLOCKS)
        for at in (slice(BLOCKS), slice(BLOCKS, None))
    ]
    want, got = apart[0] - apart[1], stratified(difference, sums, counts)
    np.testing.assert_allclose(got.value, want.value)
    np.testing.assert_allclose(got.error, want.error)


def bert(depth: int = 1, heads: int = 2) -> Net:
    arch = Bert(depth=depth, width=8, heads=heads, mlp_width=8, vocab_size=30, positions=8)
    return Net(arch, 2, "wordpiece", "words")


def texts(n: int, size: int, length: int = 6) -> list[dict]:
    """Sentences of 3 to 5 tokens, padded to `length`; rows beyond n are not real."""
    random = np.random.default_rng(0)
    rows = -(-n // size) * size
    group, lengths = (np.resize(random.integers(*ends, n), rows) for ends in ((0, 4), (3, 6)))
    words = np.resize(random.integers(0, 30, (n, 5)), (rows, 5))
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    tokens = np.pad(words, ((0, 0), (0, length - 5))).astype(np.int32) * mask
    columns = {"group": group.astype(np.int32), "id": np.arange(rows, dtype=np.int32)}
    columns |= {"label": columns["group"] // 2, "real": (np.arange(rows) < n).astype(np.float32)}
    view = {"tokens": tokens, "mask": mask, "segments": np.zeros_like(mask)}
    return [
        {k: v[i : i + size] for k, v in columns.items()}
        | {"views": {"wordpiece": Inputs({k: v[i : i + size] for k, v in view.items()}, "words")}}
        for i in range(0, rows, size)
    ]


def test_padding_batches_and_devices_change_nothing():
    """Of heads of tokens; only what is shuffled hangs on batches."""
    nets, taps = (bert(), bert(heads=4)), ("block00/head_out",) * 2
    limits = {"fit_examples": 12, "examples": 12}
    one = stitch(nets, texts(40, 40), texts(40, 40), taps, **limits)
    assert one["n_fit_aligned"] == one["n_conflicting"] == 12
    assert one["first_layers"] == ["block00/head_out"]
    assert one["patched"]["teacher"]["aligned"]["value"].shape == (1,)
    mesh = make_mesh()
    placed = {"put": lambda batch: put_batch(batch, mesh)}
    placed["variables"] = tuple(
        put_replicated(net.init(jax.random.key(i)), mesh) for i, net in enumerate(nets)
    )
    given = texts(40, 16, length=8)
    with jax.transfer_guard("disallow"):
        other = stitch(nets, given, given, taps, **limits, **placed)
    for result in (one, other):
        del result["patched"]["shuffled"]
    want = {jax.tree_util.keystr(k): v for k, v in jax.tree.leaves_with_path(one)}
    for path, got in jax.tree.leaves_with_path(other):
        name = jax.tree_util.keystr(path)
        if not isinstance(got, str):
            np.testing.assert_allclose(got, want[name], rtol=1e-3, atol=1e-5, err_msg=name)


def images() -> list[dict]:
    pixels = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
    group = np.arange(8, dtype=np.int32) % 4
    columns = {"group": group, "label": group // 2, "id": group, "real": np.ones(8, np.float32)}
    return [columns | {"views": {"image": {"pixels": pixels}}}]


def test_maps_of_other_sizes_are_brought_to_the_students():
    x = jnp.arange(2 * 4 * 4 * 3.0).reshape(2, 4, 4, 3)
    halved = linear_maps.resized(x, 2, 2)
    np.testing.assert_allclose(halved, x.reshape(2, 2, 2, 2, 2, 3).mean((2, 4)))
    larger = linear_maps.resized(x, 8, 2)
    assert larger.shape == (2, 8, 2, 3)
    np.testing.assert_allclose(larger[:, 0], halved_columns(x)[:, 0])
    assert np.array_equal(linear_maps.resized(x, 4, 4), x)
    nets = tuple(Net(MapsArchitecture(size), 2, "image") for size in (4, 2))
    taps = (("stem", "stem"),)
    assert linear_maps.layer_pairs(tuple((n, "stem") for n in nets), images()[0]) == (taps, [])
    given = {"fit_examples": 4, "examples": 4, "ridge": 1e-6}
    found = stitch(nets, images(), images(), ("stem", "stem"), **given)
    for source in ("teacher", "own"):  # the student's map is the teacher's, averaged down
        assert found["patched"][source]["explained_conflicting"] > 0.99
        same = found["patched"][source]["by_group"][0]
        np.testing.assert_array_equal(same, found["student"]["by_group"])


def halved_columns(x):
    return x.reshape(2, 4, 2, 2, 3).mean(3)


class Maps(nnx.Module):
    """Answers by the mean over a map of a given size."""

    def __init__(self, size: int, rngs: nnx.Rngs):
        self.size, self.head = size, nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, inputs, tape):
        x = tape("stem", linear_maps.resized(inputs["pixels"], self.size, self.size))
        x = jnp.tanh(3 * x).mean(axis=(1, 2))
        return Outputs(logits=self.head(x), features=x)


@dataclasses.dataclass(frozen=True)
class MapsArchitecture(Architecture):
    size: int
    view: ClassVar[str] = "image"
    presets: ClassVar[dict] = {}

    def fit(self, facts):
        return self

    def module(self, num_classes, rngs):
        return Maps(self.size, rngs)


def test_what_no_map_joins_is_refused_with_its_reason():
    def vit(patch: int = 4, classes: int = 2) -> Net:
        sizes = {"depth": 1, "width": 8, "heads": 2, "mlp_width": 8, "patch": patch}
        return Net(ViT(**sizes, image=(8, 8), channels=3), classes, "image")

    def pairs(*nets, taps=(".*/out",) * 2, batch=images()[0]):
        return linear_maps.layer_pairs(tuple(zip(nets, taps)), batch)

    resnet = Net(ResNet(**dict(ResNet.presets["tiny"]) | {"channels": 3}), 2, "image")
    assert pairs(vit(), vit())[0] == (("block00/out", "block00/out"),)
    with pytest.raises(ValueError, match=r"block00/out \[5, 8\] and .*\[17, 8\]: other positions"):
        pairs(vit(), vit(2))
    with pytest.raises(ValueError, match=r"vectors, tokens and images have no positions in common"):
        pairs(vit(), resnet, taps=("block00/out", "stage1/block1/out"))
    with pytest.raises(ValueError, match="attention maps are no features"):
        pairs(vit(), vit(), taps=(".*_probs",) * 2)
    with pytest.raises(ValueError, match="2 labels, the second 3"):
        pairs(vit(), vit(classes=3))
    batch = texts(4, 4)[0]
    batch["views"]["other"] = batch["views"]["wordpiece"]
    with pytest.raises(ValueError, match="of other tokens, views 'wordpiece' and 'other'"):
        pairs(bert(), Net(bert().architecture, 2, "other"), batch=batch)
    for wrong in ({"fit_examples": 1}, {"examples": 0}, {"ridge": 0.0}):
        with pytest.raises(ValueError, match=f"stitch: {next(iter(wrong))} = "):
            stitch((vit(), vit()), [], [], **wrong)
    with pytest.raises(ValueError, match="no example to fit maps to"):
        stitch((vit(), vit()), [], [])
    broken = batches(60, 60)
    broken[0]["views"]["image"]["pixels"] = broken[0]["views"]["image"]["pixels"] * np.nan
    with pytest.raises(FloatingPointError, match="activations of the nets"):
        stitch((TEACHER, STUDENT), broken, broken)
