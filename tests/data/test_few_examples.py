"""`data.examples`: training draws from a few, chosen by the seed, while the split stays whole."""

import dataclasses

import numpy as np
import pytest

from fairkd_jax.config import Data, content_of
from fairkd_jax.data import pipeline
from fairkd_jax.data.dataset import Info, make_split
from fairkd_jax.data.samplers import SAMPLERS, draw_by

pytestmark = pytest.mark.quick

INFO = Info(("no", "yes"), ("a", "b"), ((True, False), (False, True)), "none", "made here")
GROUP = np.repeat(np.arange(4), (400, 100, 100, 200))
SPLIT = make_split(INFO, GROUP // 2, GROUP % 2)
BUCKETS = [np.flatnonzero(np.arange(800) % 4 == 0), np.flatnonzero(np.arange(800) % 4)]


def drawn(sampler, seed, examples, buckets=None, steps=100):
    draw = draw_by(sampler, SPLIT, seed, 8, buckets, examples)
    return draw, np.concatenate([draw.rows(step) for step in range(steps)])


@pytest.mark.parametrize("buckets", [None, BUCKETS], ids=["one", "two"])
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_so_many_are_drawn_from_at_most_and_by_the_seed(sampler, buckets):
    draw, rows = drawn(sampler, 0, 40, buckets)
    again, other = (drawn(sampler, seed, 40, buckets)[1] for seed in (0, 1))
    np.testing.assert_array_equal(rows, again)
    assert len({*rows.tolist()}) <= 40 and {*rows.tolist()} != {*other.tolist()}
    assert draw.epoch <= 40
    if sampler == "natural":
        assert draw.epoch == len({*rows.tolist()}) == 40
    if sampler.endswith("balanced"):
        key = {"class": SPLIT.columns["label"], "group": GROUP}[sampler.split("_")[0]]
        found = np.bincount(key[rows]) / len(rows)
        np.testing.assert_allclose(found, 1 / len(found), atol=0.06)


def test_fewer_lie_among_more_and_all_are_all():
    some, more, every = (drawn("natural", 3, n)[1] for n in (20, 40, 0))
    assert {*some.tolist()} < {*more.tolist()}
    np.testing.assert_array_equal(drawn("natural", 3, 800)[1], every)
    with pytest.raises(ValueError, match=r"data\.examples = -1"):
        draw_by("natural", SPLIT, 0, 8, examples=-1)


def test_extra_examples_are_drawn_beside_a_few():
    extra = {"s": {"name": "attribute_swap", "count": 30, "rate": 0.25}}
    data = Data(set={"name": "colored_digits", "image_size": 8}, augment=extra)
    source = pipeline.open_data(data).drawn()
    options = dict(seed=0, steps=40, batch_size=16, examples=24)
    ids = np.concatenate([batch["id"] for batch in pipeline.train_batches(source, **options)])
    own = ids[ids <= source.train.columns["id"].max()]
    assert len({*own.tolist()}) == 24 and len({*ids.tolist()}) == 24 + 30
    assert pipeline.epoch_size(source, batch_size=16, examples=24) == 24 * 16 / 12


def test_at_its_default_it_is_no_part_of_an_identity():
    assert "examples" not in content_of(Data())
    assert "examples" in content_of(dataclasses.replace(Data(), examples=5))
