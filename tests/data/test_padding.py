"""Padding: a few lengths that follow from the split; the same examples, whoever reads them."""

import dataclasses

import jax
import numpy as np
import pytest

from fairkd_jax import sharding
from fairkd_jax.config import Data, Mix, Optim, Train, TrainStage
from fairkd_jax.data.dataset import Encoder, Info, Ragged, make_split
from fairkd_jax.data.padding import FEW, PADDINGS, chosen, ladder, padding_of
from fairkd_jax.data.pipeline import eval_batches, train_batches
from fairkd_jax.data.samplers import SAMPLERS, draw_by
from fairkd_jax.data.source import Source
from fairkd_jax.registry import UnknownName
from fairkd_jax.train import log, loop


class Counts(Encoder):
    """A number n as n tokens."""

    def __init__(self, times: int = 1):
        self.times = times
        self.facts = {"length": 100, "identity": "counts"}
        self.fill = {"tokens": 7}

    def encode(self, columns):
        return self.pad(self.ragged(columns), 100)

    def ragged(self, columns):
        lengths = (columns["n"] * self.times).astype(np.int32)
        return Ragged(lengths, {"tokens": np.repeat(lengths, lengths)})


def made(rows=1001, views=(1,), seed=0):
    """A source of rows of log-normal lengths, with groups of very unequal size."""
    rng = np.random.default_rng(seed)
    n = np.clip(rng.lognormal(2.6, 0.6, rows).astype(int), 2, 100 // max(views))
    label, attribute = rng.integers(0, 2, rows), (rng.random(rows) < 0.2).astype(int)
    info = Info(("no", "yes"), ("a", "b"), ((True, False), (False, True)), "none", "made here")
    split = make_split(info, label, attribute, n=n, id=np.arange(rows) * 3)
    return Source(split, {f"x{times}": Counts(times) for times in views})


SOURCE = made()


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_lengths_are_few_and_hold_every_row():
    for limit in (8, 24, 100, 128, 512):
        rungs = ladder(limit)
        assert rungs[-1] == limit and (np.diff(rungs) > 0).all()
        assert (np.diff(rungs)[rungs[1:] > 64] <= rungs[:-1][rungs[1:] > 64] / 8 + 8).all()
    lengths = SOURCE.view("x1").lengths
    for batch_size in (1, 32):
        few = chosen(lengths, 100, batch_size)
        assert len(few) <= FEW and few[-1] >= lengths.max() and set(few) <= {*ladder(100)}
    assert chosen(np.full(50, 9), 100).tolist() == [16]  # all alike: one program
    assert chosen(np.arange(2), 1).tolist() == [1]


@pytest.mark.parametrize("padding", sorted(PADDINGS))
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_arrays_are_those_of_fixed_padding_cut_where_nothing_is_left(padding, sampler):
    options = {"seed": 3, "steps": 20, "batch_size": 16, "sampler": sampler}
    shapes = set()
    for batch in train_batches(SOURCE, padding=padding, **options):
        got = batch["views"]["x1"]
        length = got["tokens"].shape[1]
        shapes.add(length)
        want = SOURCE.batch(batch["id"] // 3)["views"]["x1"]
        for name, array in got.items():
            np.testing.assert_array_equal(array, want[name][:, :length])
        assert want["mask"][:, length:].sum() == 0
    assert len(shapes) <= FEW and (padding != "fixed" or shapes == {100})
    if padding == "longest":  # the same examples
        for i in (0, 7):
            pair = [train_batches(SOURCE, padding=p, **options)[i] for p in ("longest", "fixed")]
            np.testing.assert_array_equal(*(batch["id"] for batch in pair))


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_the_bucket_of_a_step_is_of_the_split_alone(sampler):
    buckets = padding_of("bucket", SOURCE, 16).buckets
    assert len(buckets) > 1
    draws = [draw_by(sampler, SOURCE.split, seed, 16, buckets) for seed in (0, 5)]
    turns = [[draw.bucket(i) for i in range(3000)] for draw in draws]
    assert turns[0] == turns[1] and {*turns[0]} == {*range(len(buckets))}
    late = draw_by(sampler, SOURCE.split, 0, 16, buckets)  # with nothing asked before
    assert [late.bucket(i) for i in (2999, 5)] == [turns[0][i] for i in (2999, 5)]
    assert (draws[0].rows(40) != draws[1].rows(40)).any()
    for step in (0, 40):
        assert set(draws[0].rows(step)) <= {*buckets[turns[0][step]]}


def test_in_a_bucket_all_come_before_any_comes_again():
    padded = padding_of("bucket", SOURCE, 16)
    draw = draw_by("natural", SOURCE.split, 1, 16, padded.buckets)
    steps = 4 * len(SOURCE) // 16
    rows = [draw.rows(i) for i in range(steps)]
    for number, bucket in enumerate(padded.buckets):
        drawn = np.concatenate([r for i, r in enumerate(rows) if draw.bucket(i) == number])
        for start in range(0, len(drawn) - len(bucket), len(bucket)):
            assert sorted(drawn[start : start + len(bucket)]) == bucket.tolist()
        # at any time its share of the draws, to within two batches
        assert abs(len(drawn) - 4 * len(bucket)) <= 2 * 16
    assert draw.epoch == len(SOURCE)


def test_buckets_leave_each_example_its_chance():
    buckets = padding_of("bucket", SOURCE, 16).buckets
    groups = SOURCE.split.columns["group"]
    draw = draw_by("group_balanced", SOURCE.split, 0, 16, buckets)
    drawn = np.concatenate([draw.rows(i) for i in range(4000)])
    share = np.bincount(groups[drawn]) / len(drawn)
    np.testing.assert_allclose(share, 0.25, atol=4 * np.sqrt(0.25 * 0.75 / len(drawn)) + 1e-3)
    wanted = 0.25 / np.bincount(groups)[groups]
    found = np.bincount(drawn, minlength=len(SOURCE)) / len(drawn)
    assert (np.abs(found - wanted) < 6 * np.sqrt(wanted / len(drawn))).all()
    plain = draw_by("subsampled_groups", SOURCE.split, 0, 16)
    sub = draw_by("subsampled_groups", SOURCE.split, 0, 16, buckets)
    assert sub.epoch == plain.epoch == 4 * np.bincount(groups).min()


def test_views_of_one_batch_have_lengths_of_their_own():
    two = made(views=(1, 3))
    for padding in ("longest", "bucket"):
        shapes = set()
        for batch in train_batches(two, seed=0, steps=30, batch_size=16, padding=padding):
            views = {k: v["tokens"].shape[1] for k, v in batch["views"].items()}
            longest = {k: int(v["mask"].sum(1).max()) for k, v in batch["views"].items()}
            assert all(views[k] >= longest[k] for k in views)
            shapes.add(tuple(views.items()))
        assert any(dict(s)["x1"] < dict(s)["x3"] for s in shapes)
        alone = train_batches(two, seed=0, steps=1, batch_size=16, padding=padding, views={"x1"})[0]
        assert set(alone["views"]) == {"x1"}


@pytest.mark.parametrize("hosts", [1, 2, 3])
@pytest.mark.parametrize("padding", sorted(PADDINGS))
def test_batches_are_the_same_whatever_the_number_of_hosts(hosts, padding):
    def parts(make):
        return [make(i) for i in range(hosts)]

    options = {"seed": 2, "steps": 45, "batch_size": 24, "padding": padding}
    whole = train_batches(SOURCE, **options)
    theirs = parts(lambda i: train_batches(SOURCE, process_index=i, process_count=hosts, **options))
    for step in (0, 41, 44):
        joined = jax.tree.map(lambda *x: np.concatenate(x), *(t[step] for t in theirs))
        same(joined, whole[step])
    ids = np.concatenate([np.concatenate([t[i]["id"] for t in theirs]) for i in range(42)])
    if padding != "bucket":
        assert sorted(ids[: len(SOURCE)]) == SOURCE.split.columns["id"].tolist()

    one = eval_batches(SOURCE, 24)
    theirs = parts(lambda i: eval_batches(SOURCE, 24, process_index=i, process_count=hosts))
    seen = []
    for step in range(len(one)):
        joined = jax.tree.map(lambda *x: np.concatenate(x), *(t[step] for t in theirs))
        same(joined, one[step])
        seen.append(joined["id"][joined["real"] > 0])
    assert sorted(np.concatenate(seen)) == SOURCE.split.columns["id"].tolist()


def test_evaluation_goes_from_short_to_long_and_comparison_in_order():
    batches = [*eval_batches(SOURCE, 64)]
    lengths = [b["views"]["x1"]["tokens"].shape[1] for b in batches]
    assert lengths == sorted(lengths) and 1 < len({*lengths}) <= FEW
    ordered = [*eval_batches(SOURCE, 64, in_order=True)]
    ids = np.concatenate([b["id"][b["real"] > 0] for b in ordered])
    np.testing.assert_array_equal(ids, SOURCE.split.columns["id"])


def test_another_padding_is_named():
    with pytest.raises(UnknownName, match=r"data.padding 'longst'.*Did you mean 'longest'"):
        train_batches(SOURCE, seed=0, steps=1, batch_size=4, padding="longst")


def test_the_longest_gives_the_losses_of_fixed_padding(tmp_path):
    """To float32 rounding, where nothing is dropped out."""
    view = {"name": "wordpiece", "length": 64, "vocab_size": 300}
    data = Data(set={"name": "template_nli", "train": 120, "eval": 12}, views={"wordpiece": view})
    net = {"name": "bert", "preset": "tiny", "width": 32, "depth": 1, "dropout": 0.0}
    train = Train(steps=6, batch_size=16, log_every=1, checkpoint_every=100)
    config = TrainStage(
        data, net, {"name": "erm"}, ({"name": "none"},), Mix(), Optim(), train, seed=1
    )
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    found = {}
    for padding in ("fixed", "longest"):
        one = dataclasses.replace(config, data=dataclasses.replace(data, padding=padding))
        loop.run(one, tmp_path / padding, mesh)
        found[padding] = log.read(tmp_path / padding / "metrics.jsonl")
    for fixed, longest in zip(found["fixed"], found["longest"]):
        rtol = 3e-6 if fixed["step"] == 1 else 1e-4  # the optimizer magnifies what was rounded
        np.testing.assert_allclose(longest["train/loss"], fixed["train/loss"], rtol=rtol)
    assert len(found["longest"]) == 6
    wrong = dataclasses.replace(config, data=dataclasses.replace(data, padding="short"))
    with pytest.raises(UnknownName, match=r"data\.padding 'short'"):
        loop.check(wrong, {})


@pytest.mark.parametrize("padding", sorted(PADDINGS))
def test_a_resident_split_gives_the_same_numbers_bit_for_bit(tmp_path, padding):
    view = {"name": "wordpiece", "length": 24, "vocab_size": 300}
    data = Data({"name": "template_nli", "train": 120, "eval": 12}, {"wordpiece": view})
    images = Data({"name": "colored_digits", "image_size": 8}, {"image": {"name": "image"}})
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    train = Train(steps=4, batch_size=16, log_every=1, checkpoint_every=100)
    bert = {"name": "bert", "preset": "tiny", "width": 32, "depth": 1}
    resnet = {"name": "resnet", "preset": "tiny"}
    none = ({"name": "none"},)
    for which, model in ((data, bert), (images, resnet))[: 2 if padding == "longest" else 1]:
        logs = []
        for resident in (False, True):
            one = dataclasses.replace(which, padding=padding, resident=resident)
            config = TrainStage(one, model, {"name": "erm"}, none, Mix(), Optim(), train, 1)
            folder = tmp_path / f"{model['name']} {resident}"
            loop.run(config, folder, mesh)
            logs.append(log.read(folder / "metrics.jsonl"))
        assert logs[0] == logs[1]
    flip = dataclasses.replace(
        images, views={"image": {"name": "image", "flip": True}}, resident=True
    )
    with pytest.raises(ValueError, match="'image' draws at random"):
        loop.check(dataclasses.replace(config, data=flip, model=resnet), {})
