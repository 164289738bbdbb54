"""What every augmentation must keep, whoever wrote it. `plugin` is its config."""

import contextlib
import dataclasses
import functools

import numpy as np
import pytest

from fairkd_jax import registry
from fairkd_jax.data.augmentation import Augmentation
from fairkd_jax.data.dataset import Split, draws
from fairkd_jax.data.mixture import Mixture
from fairkd_jax.data.source import Source
from fairkd_jax.testing.everything import Everything

RETURNED = ("attribute", "partner_label", "label_weight")  # by a change, beside raw columns


@pytest.fixture
def sets():
    """Configs of further sets, beside the one made up here."""
    return []


@pytest.fixture
def one(plugin):
    return registry.build("augment", plugin)


@pytest.fixture
def mixtures(plugin, one, sets):
    """The sets of which the augmentation can make something, with it."""
    datasets = [Everything(), *(registry.build("sets", spec) for spec in sets)]
    found = []
    for dataset in datasets:
        with contextlib.suppress(ValueError):  # an augmentation of images, a set of texts
            found.append(
                (dataset, Mixture(Source(dataset.load("train"), {}), dataset, {"one": one}))
            )
    assert found, f"none of these sets has what the augmentation reads: {datasets}"
    return found


def test_it_gives_examples_or_changes_them(one, plugin):
    cls = type(one)
    assert (cls.change is not Augmentation.change) == one.changes_inputs
    assert (cls.examples is not Augmentation.examples) == (not one.changes_inputs)
    assert one.changes_inputs or not (one.mixes or one.partners)
    assert {*cls.places} <= {f.name for f in dataclasses.fields(cls)}
    assert all(path.is_file() for path in one.reads().values())
    role = registry.build("augment", plugin | {"roles": ("distilled",)}).roles
    assert role == ("distilled",)


def test_what_cannot_be_is_refused(one, plugin):
    for rate in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"rate = {rate}"):
            registry.build("augment", plugin | {"rate": rate})
    with pytest.raises(registry.UnknownName, match=r"'student'.*baseline, distilled, teacher"):
        registry.build("augment", plugin | {"roles": ("student",)})
    if one.changes_inputs and not one.partners:
        with pytest.raises(ValueError, match="conflicting"):
            registry.build("augment", plugin | {"conflicting": 0.5})
    else:
        assert registry.build("augment", plugin | {"conflicting": 0.5}).sees_attributes
    dataset = Everything()
    train = dataset.load("train")
    bare = Split({k: train.columns[k] for k in ("label", "attribute", "group", "id")}, train.info)
    for column in one.needs[:1]:
        with pytest.raises(ValueError, match=f"raw column {column!r}"):
            Mixture(Source(bare, {}), dataset, {"one": one})


def test_extra_examples_are_sound_and_the_same_at_every_call(one, mixtures):
    for dataset, mixed in mixtures:
        train, split = mixed.train, mixed.split
        if one.changes_inputs:
            assert split is train and not mixed.pools
            continue
        again = Mixture(Source(train, {}), dataset, {"one": one}).split
        for name, column in split.columns.items():
            np.testing.assert_array_equal(column[:], again.columns[name][:], err_msg=name)
            assert column.dtype == train.columns.get(name, np.float32(0)).dtype, name
        columns = split.columns
        assert len(np.unique(columns["id"])) == len(split)
        made = {k: v[len(train) :] for k, v in columns.items()}
        assert made["id"].min() > train.columns["id"].max() and len(made["id"]) > 0
        assert {*one.needs} <= {*columns}
        assert {*made["labelled"].tolist(), *made["grouped"].tolist()} <= {0.0, 1.0}
        assert dataset.may_train(made).all()
        raw = {k: v for k, v in made.items() if k in one.needs}
        known = dataset.attribute_of(raw) if raw else None
        if known is not None:
            grouped = made["grouped"] > 0
            np.testing.assert_array_equal(made["attribute"][grouped], known[grouped])


def test_changes_are_of_seed_step_and_example_alone(one, mixtures):
    for _, mixed in mixtures:
        if not one.changes_inputs:
            continue
        train = mixed.train

        def changed(rows, seed=1, step=2, train=train):
            columns = {k: np.array(v[rows]) for k, v in train.columns.items()}
            draw = functools.partial(draws, seed, step, columns["id"], stream=5)
            return columns, one.change(columns, train, lambda count: draw(count=count))

        rows = np.arange(3, 23)
        before, whole = changed(rows)
        assert {*whole} <= {*train.columns, *RETURNED} - {"label", "group", "id"}
        assert ({"partner_label", "label_weight"} <= {*whole}) == one.mixes
        for name, new in whole.items():
            assert len(new) == len(rows)
            if name in before:
                assert new.dtype == before[name].dtype and new.shape == before[name].shape
            if new.dtype == object:
                longer = [len(a.split()) > len(b.split()) for a, b in zip(new, before[name])]
                assert not any(longer) and all(text.strip() for text in new)
        if one.mixes:
            assert whole["label_weight"].min() >= 0.5 and whole["label_weight"].max() <= 1
        for part in (slice(4, 9), slice(None, None, -1)):
            for name, new in changed(rows[part])[1].items():
                np.testing.assert_array_equal(new, whole[name][part], err_msg=name)
        same = changed(rows)[1]
        others = changed(rows, seed=2)[1], changed(rows, step=3)[1]
        assert all(np.array_equal(same[k], whole[k]) for k in whole)
        for other in others:
            assert any(np.any(other[k] != whole[k]) for k in whole)
