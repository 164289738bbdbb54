"""Knobs of strength: exact, nested, of (seed, id) alone, on training alone, or refused."""

import dataclasses
import itertools

import numpy as np
import pytest

from fairkd_jax.config import Data, as_config_dict, content_of, parse
from fairkd_jax.data import pipeline, strength
from fairkd_jax.data.dataset import Info, make_split
from fairkd_jax.data.pipeline import eval_batches, open_data, train_batches
from fairkd_jax.data.strength import Strength, chosen

pytestmark = pytest.mark.quick

INFO = Info(("no", "yes"), ("a", "b"), ((True, False), (False, True)), "none", "made here")
COUNTS = (400, 100, 30, 270)
DIGITS = {"name": "colored_digits", "image_size": 8}


def made(counts=COUNTS, info=INFO, seed=0):
    """Groups of the given sizes; ids and rows in a random order."""
    random = np.random.default_rng(seed)
    group = random.permutation(np.repeat(np.arange(len(counts)), counts))
    attributes = len(info.attribute_names)
    identity = random.permutation(9 * len(group))[: len(group)]
    text = [f"text {i}" for i in identity]
    return make_split(info, group // attributes, group % attributes, id=identity, text=text)


def ids(split, **knobs):
    """{id: label} of what is kept."""
    _, part = chosen(split, Strength(**knobs))
    return dict(zip(part.columns["id"].tolist(), part.columns["label"].tolist()))


def test_a_part_has_the_rows_of_the_whole():
    split = made()
    rows, part = chosen(split, Strength(fraction=0.3, label_noise=0.2))
    assert (np.diff(rows) > 0).all() and len(part) == len(rows)
    for name in ("attribute", "id"):
        np.testing.assert_array_equal(part.columns[name], split.columns[name][rows])
    text = part.columns["text"]
    assert text.shape == (len(rows),) and text[3:4] == [f"text {part.columns['id'][3]}"]
    assert text[:5].tolist() == split.columns["text"][rows[:5]].tolist()
    assert text[np.array([7, 2])].tolist() == split.columns["text"][rows[[7, 2]]].tolist()
    again = make_split(INFO, part.columns["label"], part.columns["attribute"])
    np.testing.assert_array_equal(again.columns["group"], part.columns["group"])


@pytest.mark.parametrize(
    ("knobs", "counts"),
    [
        ({"fraction": 0.25}, [100, 25, 8, 68]),  # 7.5 and 67.5, halves up
        ({"fraction": 0.01}, [4, 1, 0, 3]),
        ({"fraction": 0.01, "group_floor": 20}, [20, 20, 20, 20]),
        ({"fraction": 0.25, "group_floor": 50}, [100, 50, 30, 68]),  # 30 is all there is
        ({"correlation": 0.95}, [400, 21, 13, 240]),
        ({"correlation": 0.5}, [50, 50, 30, 30]),
        ({"correlation": 1.0}, [400, 0, 0, 240]),
        ({"correlation": 0.0}, [0, 50, 30, 0]),
        ({"correlation": 0.5, "fraction": 0.1}, [25, 25, 15, 15]),
        ({"correlation": 0.9, "fraction": 0.1}, [45, 5, 3, 27]),
    ],
)
def test_sizes_are_exact_whatever_the_seed(knobs, counts):
    for seed in (0, 1):
        part = chosen(made(), Strength(**knobs, seed=seed))[1]
        assert part.counts().tolist() == counts
    right = np.array([counts[0], counts[3]])
    size = np.array([sum(counts[:2]), sum(counts[2:])])
    if (share := knobs.get("correlation")) is not None:
        np.testing.assert_allclose(right / size, share, atol=1 / size.min())
        np.testing.assert_allclose(size / size.sum(), [500 / 800, 300 / 800], atol=2 / size.sum())


def test_what_is_chosen_hangs_on_seed_and_id_alone():
    split = made()
    order = np.random.default_rng(1).permutation(len(split))
    columns = {k: v[order] for k, v in split.columns.items()}
    shuffled = dataclasses.replace(split, columns=columns)
    for knobs in ({"fraction": 0.3}, {"label_noise": 0.2}, {"correlation": 0.7, "fraction": 0.2}):
        assert ids(split, **knobs) == ids(shuffled, **knobs)
        assert ids(split, **knobs, seed=1) != ids(split, **knobs)


@pytest.mark.parametrize("more", [{}, {"group_floor": 25}, {"correlation": 0.6}, {"seed": 4}])
def test_a_smaller_fraction_lies_inside_a_larger_one(more):
    found = [ids(made(), fraction=f, **more).items() for f in (0.03, 0.1, 0.11, 0.2)]
    assert all(a <= b and len(a) < len(b) for a, b in itertools.pairwise(found))


def test_noise_is_nested_uniform_and_of_other_labels_alone():
    info = Info(("x", "y", "z"), ("a",), ((True,), (False,), (False,)), "none", "made here")
    split = made((3000, 600, 300), info)
    clean = ids(split, label_noise=0.0, fraction=1.0)
    weak, strong = (ids(split, label_noise=p) for p in (0.1, 0.4))
    flipped = [{i: new for i, new in noisy.items() if new != clean[i]} for noisy in (weak, strong)]
    assert flipped[0].items() <= flipped[1].items()
    for label, size in enumerate((3000, 600, 300)):
        to = [[new for i, new in f.items() if clean[i] == label] for f in flipped]
        assert [len(t) for t in to] == [0.1 * size, 0.4 * size]
        shares = np.bincount(to[1], minlength=3)[np.arange(3) != label] / len(to[1])
        np.testing.assert_allclose(shares, 0.5, atol=4 * np.sqrt(0.25 / len(to[1])))
    # whatever is left out, what is wrong is wrong in the same way; sizes are of labels as trained
    part = ids(split, label_noise=0.4, fraction=0.3)
    assert part.items() <= strong.items()
    noisy = chosen(split, Strength(label_noise=0.4))[1].counts()
    thinned = chosen(split, Strength(label_noise=0.4, fraction=0.3))[1].counts()
    np.testing.assert_array_equal(thinned, np.floor(0.3 * noisy + 0.5))


def test_numbers_are_uniform_and_independent():
    n = 200_000
    drawn = np.stack([strength._uniform(s, w, np.arange(n)) for s in (0, 1) for w in (0, 1)])
    assert drawn.min() >= 0 and drawn.max() < 1
    np.testing.assert_allclose(np.corrcoef(drawn) - np.eye(4), 0, atol=5 / np.sqrt(n))
    np.testing.assert_allclose(np.corrcoef(drawn[0, 1:], drawn[0, :-1])[0, 1], 0, atol=0.01)
    for row in drawn:
        np.testing.assert_allclose(np.histogram(row, 20, (0, 1))[0], n / 20, rtol=0.05)


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"correlation": 0.999}, r"from 0.0323 to 0.996, .* no: 400 and 100; yes: 270 and 30"),
        ({"correlation": 0.01}, r"= 1: at this fraction .* reaches shares from 0.0323 to 0.996"),
        ({"correlation": 0.8, "fraction": 0.9}, "0.889 to 0.889, and at this share .* up to 0.5"),
        ({"correlation": 0.5, "fraction": 0.001}, "reaches no share"),
        ({"correlation": 0.95, "group_floor": 20}, "keeps 13 of 30 examples of yes, a: .* = 20"),
        ({"fraction": 0.001}, "fraction 0.001 leaves none of 500 examples of label 'no'"),
    ],
)
def test_what_cannot_be_had_is_refused_with_what_can(knobs, told):
    with pytest.raises(ValueError, match=told):
        chosen(made(), Strength(**knobs))


def test_the_reach_that_is_told_is_the_reach():
    for fraction, low, high in ((1.0, 1 / 31, 240 / 241), (0.2, 0.5, 59 / 60)):
        for share in (low + 1e-6, high - 1e-6):
            part = chosen(made(), Strength(correlation=share, fraction=fraction))[1]
            assert (part.counts() > 0).all()
        for share in (low - 2e-3, high + 2e-3):
            with pytest.raises(ValueError, match="subsampling reaches"):
                chosen(made(), Strength(correlation=share, fraction=fraction))


def test_a_label_of_which_all_shortcuts_are_alike_has_no_other_correlation():
    info = dataclasses.replace(INFO, aligned=((True, True), (False, False)))
    for share, told in (
        (0.8, "'no' has a shortcut that is wrong, so only a share of 1"),
        (1.0, "'yes' has a shortcut that is right, so only a share of 0"),
    ):
        with pytest.raises(ValueError, match=f"no example of label .*{told}.*no: 500 and 0"):
            chosen(made(info=info), Strength(correlation=share))


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"fraction": 0.0}, "data.fraction = 0.0: expected a share above 0"),
        ({"fraction": 1.2}, "data.fraction = 1.2"),
        ({"group_floor": -1}, "data.group_floor = -1"),
        ({"correlation": 1.5}, "data.correlation = 1.5: expected a share, or None"),
        ({"label_noise": 1.0}, "data.label_noise = 1.0: expected a share below 1"),
        ({"fraction": 0.5, "strength_seed": -1}, "data.strength_seed = -1"),
    ],
)
def test_values_that_none_can_have_are_refused(knobs, told):
    with pytest.raises(ValueError, match=told):
        strength.settled(dataclasses.replace(Data(), **knobs), 0)


def test_only_training_sees_less_and_shares_what_is_encoded(monkeypatch):
    encoded = []
    whole = open_data(Data(set=DIGITS)).source("train")
    monkeypatch.setattr(pipeline.Source, "_keep", lambda *a: encoded.append(a))
    data = Data(set=DIGITS, fraction=0.25, label_noise=0.2, strength_seed=3)
    opened = open_data(data)
    part = opened.source("train")
    assert part is opened.source("train") and not encoded
    assert opened.train is open_data(Data(set=DIGITS)).train  # on which views are fitted
    rows, _ = chosen(whole.split, strength.of(data))
    batch, same = part.batch(np.arange(9)), whole.batch(rows[:9])
    np.testing.assert_array_equal(batch["id"], same["id"])
    np.testing.assert_array_equal(
        batch["views"]["image"]["pixels"], same["views"]["image"]["pixels"]
    )
    assert (part.batch(np.arange(len(part)))["label"] != whole.batch(rows)["label"]).mean() > 0.15
    np.testing.assert_array_equal(batch["group"], batch["label"] * 2 + batch["attribute"])
    monkeypatch.undo()
    for split in ("val", "test"):
        assert opened.source(split) is open_data(Data(set=DIGITS)).source(split)
    assert opened.source("train", DIGITS) is whole  # scored as another set, it is whole
    batches = train_batches(part, seed=0, steps=len(part) // 10, batch_size=10)
    drawn = np.concatenate([b["id"] for b in batches])
    assert len({*drawn}) == len(drawn) and {*drawn} <= {*part.split.columns["id"]}
    scored = [*eval_batches(part, 64)]
    assert sum(b["real"].sum() for b in scored) == len(part)
    assert pipeline.epoch_size(part, "subsampled_groups") == 4 * part.split.counts().min()


def test_what_older_configs_lacked_is_no_part_of_an_identity():
    plain = {"set": DIGITS, "views": {"image": {"name": "image"}}}
    assert content_of(Data(**plain)) == plain | {"split": "train", "sampler": "natural"}
    assert content_of(Data(**plain, fraction=0.5))["fraction"] == 0.5
    settled = strength.settled(Data(**plain, group_floor=7, strength_seed=5), 3)
    assert settled == Data(**plain)
    asked = strength.settled(Data(**plain, label_noise=0.1, group_floor=7), 3)
    assert (asked.strength_seed, asked.group_floor) == (3, 0)
    assert strength.settled(Data(**plain, fraction=0.5, strength_seed=5), 3).strength_seed == 5
    config = as_config_dict(Data(**plain))
    config.correlation, config.strength_seed = 0.5, 3  # flags may set what is None
    assert parse(Data, config) == Data(**plain, correlation=0.5, strength_seed=3)
    assert str(strength.of(asked)) == "label_noise 0.1" and strength.of(Data(**plain)) is None


def test_another_split_to_train_on_is_refused():
    with pytest.raises(ValueError, match=r"data\.split = 'val', but fraction 0.5 would act on the"):
        strength.settled(Data(set=DIGITS, split="val", fraction=0.5), 0)
