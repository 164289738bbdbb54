"""Pairs of clean and corrupt examples: what sets change, and that the rest stays as it is."""

import functools

import numpy as np
import pytest
from conftest import set_spec

from fairkd_jax import registry
from fairkd_jax.config import Data
from fairkd_jax.data import counterparts, pipeline
from fairkd_jax.data.dataset import Info, Split, make_split
from fairkd_jax.data.shortcuts import overlaps
from fairkd_jax.registry import UnknownName
from fairkd_jax.testing.everything import Everything

INFO = Info(("yes", "no"), ("a", "b"), ((True, False), (False, True)), "none", "made here")
TEMPLATES = {"name": "template_nli", "train": 400, "eval": 200}
WORDS = {"wordpiece": {"name": "wordpiece", "length": 32, "vocab_size": 500}}


def texts(*pairs) -> Split:
    premise, hypothesis = zip(*pairs)
    zeros = np.zeros(len(pairs), int)
    return make_split(INFO, zeros, zeros, premise=list(premise), hypothesis=list(hypothesis))


def test_subject_and_object_change_places_and_nothing_else_does():
    rows, corrupt = counterparts.subject_object(
        texts(
            ("It was so.", "The doctor advised an actor."),
            ("It was so.", "The doctor slept."),
            ("It was so.", "a judge thanked the poet"),
            ("It was so.", "The twin married the poet."),  # says the same of both
        )
    )
    assert rows.tolist() == [0, 2]
    found = corrupt.columns["hypothesis"].tolist()
    assert found == ["An actor advised the doctor.", "the poet thanked a judge"]
    assert corrupt.columns["premise"].tolist() == ["It was so."] * 2


def test_overlap_of_words_begins_and_ends():
    rows, corrupt = counterparts.word_overlap(
        texts(
            ("The baker saw the poet.", "The baker waited."),
            ("The baker thanked the poet.", "The poet thanked the baker."),
            ("The baker waited.", "The poet waited."),
            ("The baker waited.", "The poet slept."),
        ),
        {"n": ("baker", "poet", "monk"), "i": ("waited", "slept")},
    )
    assert rows.tolist() == [1, 2]  # of the others more than one word does not occur
    assert corrupt.columns["hypothesis"].tolist() == [
        "The poet thanked the monk.",
        "The baker waited.",
    ]


@functools.cache
def opened(kind: str) -> pipeline.Opened:
    if kind == "images":
        return pipeline.open_data(Data(set={"name": "colored_digits"}))
    return pipeline.open_data(Data(set=TEMPLATES, views=WORDS))


@pytest.mark.parametrize("how", ["heuristic", "subject_object"])
def test_template_pairs_differ_and_have_as_many_tokens(how):
    data = opened("texts")
    source = data.source("test")
    found = counterparts.paired(source, data.dataset, how, "all", 12, {"wordpiece"})
    batch = pipeline.eval_batches(found, 16, in_order=True)[0]
    clean, corrupt = (batch[k]["wordpiece"] for k in ("views", "corrupt"))
    real = batch["real"] > 0
    assert 2 <= real.sum() <= 12 and len(found) == real.sum()
    np.testing.assert_array_equal(clean["mask"], corrupt["mask"])
    assert (clean["tokens"] != corrupt["tokens"]).any(axis=1)[real].all()
    assert clean.identity == corrupt.identity != ""
    if how == "heuristic":
        columns, other = found.split.columns, found._other.split.columns
        for premise, one, two in zip(
            columns["premise"], columns["hypothesis"], other["hypothesis"]
        ):
            assert overlaps(premise, one) != overlaps(premise, two)


def test_a_planted_colour_becomes_the_next_and_kinds_are_kept_apart():
    data = opened("images")
    source = data.source("test")
    for kind, right in (("aligned", True), ("conflicting", False)):
        found = counterparts.paired(source, data.dataset, "attribute", kind, 8, {"image"})
        columns, other = found.split.columns, found._other.split.columns
        assert ((columns["label"] == columns["attribute"]) == right).all() and len(found) == 8
        np.testing.assert_array_equal(other["attribute"], 1 - columns["attribute"])
        np.testing.assert_array_equal(other["image"].max(axis=3), columns["image"].max(axis=3))
        assert found.left_out == {}


def test_what_cannot_be_is_told():
    data = opened("images")
    source = data.source("test")
    for how, kind, error, message in (
        ("colour", "all", UnknownName, "colored_digits can change: 'colour'.*attribute"),
        ("attribute", "alined", UnknownName, "'alined'.*'aligned'"),
    ):
        with pytest.raises(error, match=message):
            counterparts.paired(source, data.dataset, how, kind, 4, {"image"})
    text = opened("texts")
    few = Split({k: v[:1] for k, v in text.source("test").split.columns.items()}, INFO)
    one = pipeline.Source(few, text.encoders)
    with pytest.raises(ValueError, match=r"of 1 all examples . have a counterpart by 'heuristic'"):
        counterparts.paired(one, text.dataset, "heuristic", "all", 4, {"wordpiece"})


def test_images_stand_before_another_background():
    split = Everything(rows=8).load("train")
    rows, corrupt = counterparts.other_background(split)
    assert rows.tolist() == [*range(8)]
    front = split.columns["mask"] > 0
    image, other = split.columns["image"], corrupt.columns["image"]
    np.testing.assert_array_equal(other[front], image[front])
    bright = np.array([x[~f].min() >= 100 for x, f in zip(other, front)])
    np.testing.assert_array_equal(bright, split.columns["attribute"] == 0)


@pytest.mark.parametrize("plant", ["colour", "patch"])
def test_prepared_images_have_another_value_planted_anew(plant):
    options = {**set_spec("mnist"), "plant": plant}
    dataset = registry.build("sets", options)
    split = dataset.load("train")
    rows, other = dataset.flips()["attribute"](split)
    assert len(rows) == len(split) == len(other)
    again = dataset.with_attribute(other, split.columns["attribute"])
    np.testing.assert_array_equal(again.columns["image"][:], split.columns["image"][:])
    assert (other.columns["image"][:] != split.columns["image"][:]).any(axis=(1, 2, 3)).all()
    with pytest.raises(ValueError, match="mnist: another attribute can be planted in examples of"):
        dataset.with_attribute(dataset.load("corrupted"), split.columns["attribute"])


def test_a_set_that_plants_nothing_has_no_attribute_to_flip():
    assert [*registry.build("sets", set_spec("hans")).flips()] == ["subject_object"]
    assert {**registry.build("sets", set_spec("celeba")).flips()} == {}
