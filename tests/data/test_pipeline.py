"""Batches: a pure function of (seed, number), whole epochs, right frequencies, exact slices."""

import jax
import numpy as np
import pytest

from fairkd_jax.config import Data
from fairkd_jax.data import pipeline
from fairkd_jax.data import source as source_module
from fairkd_jax.data.dataset import Info, make_split
from fairkd_jax.data.pipeline import eval_batches, open_data, train_batches
from fairkd_jax.data.samplers import SAMPLERS
from fairkd_jax.data.source import Source
from fairkd_jax.data.tables import read_table, write_table
from fairkd_jax.registry import UnknownName

pytestmark = pytest.mark.quick

TEXT = Data(
    set={"name": "template_nli", "train": 200, "eval": 24},
    views={"wordpiece": {"name": "wordpiece", "length": 24, "vocab_size": 400}},
)


@pytest.fixture(scope="module")
def digits():
    return open_data(Data()).source("train")


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.structure(a) == jax.tree.structure(b)


def made(counts):
    """A source without views whose groups (2 x 2) have the given numbers of examples."""
    info = Info(("no", "yes"), ("a", "b"), ((True, False), (False, True)), "none", "made here")
    group = np.repeat(np.arange(4), counts)
    return Source(make_split(info, group // 2, group % 2, id=np.arange(len(group)) * 3), {})


@pytest.mark.parametrize("data", [Data(), TEXT], ids=["image", "text"])
def test_the_format_of_a_batch(data):
    opened = open_data(data)
    batch = train_batches(opened.source("train"), seed=0, steps=3, batch_size=8)[0]
    assert set(batch) == {"views", "label", "attribute", "group", "id", "real"}
    assert {batch[k].dtype.name for k in ("label", "attribute", "group", "id")} == {"int32"}
    assert batch["real"].dtype == np.float32 and batch["real"].all()
    assert {x.shape[0] for x in jax.tree.leaves(batch)} == {8}
    assert set(batch["views"]) == set(data.views) == set(opened.facts)
    # rows belong together: the encoded view is that of the example with this id
    split = opened.train
    row = int(np.flatnonzero(split.columns["id"] == batch["id"][3])[0])
    alone = {k: v[row : row + 1] for k, v in split.columns.items()}
    for name, encoder in opened.encoders.items():
        same(encoder.encode(alone), {k: v[3:4] for k, v in batch["views"][name].items()})
    assert batch["group"][3] == split.columns["group"][row]


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_batch_i_depends_on_seed_and_i_alone(digits, sampler):
    def batches(seed):
        return train_batches(digits, seed=seed, steps=60, batch_size=50, sampler=sampler)

    first, again = batches(3), batches(3)
    same(first[41], again[41])  # with nothing read before
    for i, batch in enumerate(pipeline.prefetched(batches(3), start=38)):
        same(batch, first[38 + i])
    assert i == 60 - 38 - 1
    assert list(pipeline.prefetched(first, start=60)) == []
    assert (batches(4)[41]["id"] != first[41]["id"]).any()
    assert (first[40]["id"] != first[41]["id"]).any()


def test_what_a_view_draws_is_in_training_alone_and_as_one_process_draws_it(digits):
    data = Data(views={"image": {"name": "image", "crop": 2, "flip": True}})
    source, options = open_data(data).source("train"), {"seed": 3, "steps": 9, "batch_size": 32}
    batches = train_batches(source, **options)
    plain = train_batches(digits, **options)[7]
    same(train_batches(source, augment=False, **options)[7], plain)
    whole = batches[7]
    pixels = whole["views"]["image"].pop("pixels")
    assert (pixels != plain["views"]["image"].pop("pixels")).any()
    same(whole, plain)
    for step, batch in enumerate(pipeline.prefetched(batches, start=6), 6):
        same(batch["views"], batches[step]["views"])
    parts = [
        train_batches(source, process_index=i, process_count=2, **options)[7] for i in range(2)
    ]
    joined = np.concatenate([part["views"]["image"]["pixels"] for part in parts])
    np.testing.assert_array_equal(joined, pixels)
    for split in ("train", "test"):
        same(
            eval_batches(open_data(data).source(split), 50)[0]["views"],
            eval_batches(open_data(Data()).source(split), 50)[0]["views"],
        )


def test_every_epoch_covers_each_example_once(digits):
    n, size = len(digits), 50
    batches = train_batches(digits, seed=1, steps=3 * n // size, batch_size=size)
    drawn = np.concatenate([b["id"] for b in pipeline.prefetched(batches)])
    epochs = [drawn[i * n : (i + 1) * n] for i in range(2)]  # batches straddle their border
    for epoch in epochs:
        assert sorted(epoch) == sorted(digits.split.columns["id"])
    assert (epochs[0] != epochs[1]).any()
    small = made((3, 1, 1, 2))  # a batch of more than an epoch
    ids = train_batches(small, seed=0, steps=1, batch_size=14)[0]["id"]
    assert np.unique(ids, return_counts=True)[1].tolist() == [2] * 7


@pytest.mark.parametrize(
    ("sampler", "key"), [("group_balanced", "group"), ("class_balanced", "label")]
)
def test_balanced_samplers_draw_values_evenly_and_examples_within_them(sampler, key):
    source = made((40, 10, 5, 30))
    batches = train_batches(source, seed=0, steps=100, batch_size=80, sampler=sampler)
    drawn = [b for b in pipeline.prefetched(batches)]
    values = np.concatenate([b[key] for b in drawn])
    share, n = 1 / len(np.unique(values)), len(values)
    tolerance = 4 * np.sqrt(share * (1 - share) / n)  # four standard deviations of a binomial
    np.testing.assert_allclose(np.bincount(values) / n, share, atol=tolerance)
    ids = np.concatenate([b["id"] for b in drawn]) // 3
    sizes = np.bincount(source.split.columns[key])
    wanted = share / sizes[source.split.columns[key]]
    tolerance = 5 * np.sqrt(wanted / n)
    assert (np.abs(np.bincount(ids, minlength=85) / n - wanted) < tolerance).all()


@pytest.mark.parametrize(
    ("sampler", "counts"),
    [("subsampled_groups", [5, 5, 5, 5]), ("subsampled_classes", [27, 8, 5, 30])],
)
def test_subsampling_takes_as_many_as_the_rarest_has(sampler, counts):
    source = made((40, 10, 5, 30))
    total = {"subsampled_groups": 20, "subsampled_classes": 70}[sampler]
    epochs = [
        train_batches(source, seed=seed, steps=4, batch_size=total, sampler=sampler)
        for seed in (0, 0, 1)
    ]
    chosen = [set(batches[i]["id"]) for batches, i in zip(epochs, (0, 3, 0))]
    assert len(chosen[0]) == total and chosen[0] == chosen[1] != chosen[2]
    groups = np.bincount(epochs[0][0]["group"], minlength=4)
    if sampler == "subsampled_groups":
        assert groups.tolist() == counts
    else:
        assert [groups[:2].sum(), groups[2:].sum()] == [35, 35]


def test_processes_slice_the_batch_of_one_process(digits):
    def parts(make):
        one, *two = make(0, 1), make(0, 2), make(1, 2)
        for i in range(len(one)):
            joined = jax.tree.map(lambda *x: np.concatenate(x), *(part[i] for part in two))
            same(joined, one[i])

    for sampler in SAMPLERS:
        parts(
            lambda index, count, s=sampler: train_batches(
                digits,
                seed=0,
                steps=4,
                batch_size=32,
                sampler=s,
                process_index=index,
                process_count=count,
            )
        )
    parts(lambda index, count: eval_batches(digits, 200, process_index=index, process_count=count))
    with pytest.raises(ValueError, match="batch_size = 9 does not divide over 2"):
        eval_batches(digits, 9, process_index=0, process_count=2)


def test_evaluation_sees_each_example_once_and_pads_with_unreal_rows(digits):
    batches = list(pipeline.prefetched(eval_batches(digits, 256)))
    assert len({jax.tree.structure(b) for b in batches}) == 1
    assert {b["real"].shape for b in batches} == {(256,)}
    real = np.concatenate([b["real"] for b in batches])
    ids = np.concatenate([b["id"] for b in batches])
    np.testing.assert_array_equal(ids[real > 0], digits.split.columns["id"])
    np.testing.assert_array_equal(ids[real == 0], digits.split.columns["id"][0])
    assert real.sum() == len(digits) and set(real) == {0.0, 1.0}
    assert not real[len(digits) :].any()
    assert len(eval_batches(made((4, 0, 0, 4)), 4)) == 2  # nothing to pad


def test_tables_are_joined_by_id(digits, tmp_path):
    identity = digits.split.columns["id"]
    write_table(tmp_path / "t", identity[::-1], {"double": identity[::-1] * 2.0}, {})
    tables = {"teacher": read_table(tmp_path / "t")}
    batch = train_batches(digits, seed=0, steps=2, batch_size=16, tables=tables)[1]
    np.testing.assert_array_equal(batch["tables"]["teacher"]["double"], batch["id"] * 2)
    assert type(batch["tables"]["teacher"]["double"]) is np.ndarray
    batch = eval_batches(digits, 16, tables=tables)[2]
    np.testing.assert_array_equal(batch["tables"]["teacher"]["double"], batch["id"] * 2)
    with pytest.raises(ValueError, match="no row for"):
        train_batches(made((1, 1, 1, 1)), seed=0, steps=1, batch_size=2, tables=tables)


def test_attributes_can_be_hidden(digits):
    batch = train_batches(digits, seed=0, steps=1, batch_size=4, hide_attributes=True)[0]
    assert set(batch) == {"views", "label", "id", "real"}


def test_a_larger_split_is_encoded_batch_by_batch(monkeypatch):
    opened = open_data(TEXT)
    kept = opened.source("test")
    monkeypatch.setattr(source_module, "KEPT_BYTES", 0)
    lazy = Source(kept.split, opened.encoders)
    same(lazy.batch(np.array([3, 1])), kept.batch(np.array([3, 1])))
    monkeypatch.setattr(source_module, "KEPT_BYTES", 2**30)
    monkeypatch.setattr(source_module, "ROWS_AT_ONCE", 5)
    same(Source(kept.split, opened.encoders).batch(np.arange(24)), kept.batch(np.arange(24)))


def test_another_set_is_read_through_the_same_views():
    opened = open_data(TEXT)
    other = opened.source("hans", {"name": "template_nli", "eval": 60})
    assert len(other) == 60 and len(other.split.info.attribute_names) == 3
    words = opened.encoders["wordpiece"].encode(other.split.columns)
    same(dict(other.batch(np.arange(60))["views"]["wordpiece"]), words)
    assert opened.source("hans", {"name": "template_nli", "eval": 60}) is other
    assert open_data(TEXT).encoders is opened.encoders
    with pytest.raises(UnknownName, match="premise"):
        opened.source("test", {"name": "colored_digits"})
    with pytest.raises(UnknownName, match="dev"):
        opened.source("dev")


def test_wrong_requests_name_value_and_choices(digits):
    with pytest.raises(UnknownName, match=r"sampler 'naturel'.*Did you mean 'natural'"):
        train_batches(digits, seed=0, steps=1, batch_size=4, sampler="naturel")
    empty = made((3, 0, 2, 2))
    for sampler in ("group_balanced", "subsampled_groups"):
        with pytest.raises(ValueError, match=r"no example of no, b .*\[3, 0, 2, 2\]"):
            train_batches(empty, seed=0, steps=1, batch_size=4, sampler=sampler)
    assert train_batches(empty, seed=0, steps=1, batch_size=4, sampler="class_balanced")[0]
    with pytest.raises(UnknownName, match="colored_digit"):
        open_data(Data(set={"name": "colored_digit"}))
    with pytest.raises(UnknownName, match="imagee"):
        open_data(Data(views={"image": {"name": "imagee"}}))
    with pytest.raises(UnknownName, match="split of ColoredDigits"):
        open_data(Data(split="training"))


def test_unexpected_counts_by_group_are_an_error(monkeypatch):
    from fairkd_jax.data.sets import colored_digits

    monkeypatch.setitem(colored_digits.COUNTS, "val", (1, 2, 3, 4))
    pipeline._split.cache_clear()
    with pytest.raises(ValueError, match=r"'val'.*\[134, 134, 135, 135\].*expected \[1, 2, 3, 4\]"):
        open_data(Data()).source("val")
