"""Coloured digits: exact shares, disjoint digits, colour where it should be."""

import numpy as np
import pytest

from fairkd_jax.data.sets.colored_digits import ColoredDigits


def test_digits_are_split_before_they_are_coloured():
    splits = [ColoredDigits().load(s) for s in ("train", "val", "test")]
    train, val, test = (s.columns["id"] for s in splits)
    digits = [set(train), set(val // 2), set(test // 2)]
    assert sum(map(len, digits)) == len(set.union(*digits)) == 1797
    assert [len(d) for d in digits] == [1078, 269, 450]


@pytest.mark.parametrize("seed", [0, 7])
def test_the_shares_are_exact_whatever_the_seed(seed):
    dataset = ColoredDigits(seed=seed)
    for split, counts in dataset.info.expected_counts.items():
        assert tuple(dataset.load(split).counts()) == counts
    train = dataset.load("train").columns
    wrong = train["label"] != train["digit"] * 2 // 10
    assert abs(wrong.mean() - 0.1) < 1e-3
    assert abs((train["label"] != train["attribute"]).mean() - 0.05) < 1e-3


def test_the_test_split_has_true_labels_and_every_digit_in_every_colour():
    test = ColoredDigits(classes=5).load("test").columns
    np.testing.assert_array_equal(test["label"], test["digit"] * 5 // 10)
    _, counts = np.unique(test["id"] // 5, return_counts=True)
    assert set(counts) == {5}
    assert len(np.unique(np.stack([test["id"] // 5, test["attribute"]]), axis=1).T) == len(
        test["id"]
    )


def test_pixels_have_the_colour_of_the_attribute_alone():
    small, large = ColoredDigits(image_size=8).load("train"), ColoredDigits().load("train")
    image, attribute = small.columns["image"], small.columns["attribute"]
    assert image.dtype == np.uint8 and image.shape[1:] == (8, 8, 3) and image.max() == 255
    assert not image[attribute == 0][..., [1, 2]].any()
    assert not image[attribute == 1][..., [0, 2]].any()
    np.testing.assert_array_equal(large.columns["image"][:, ::2, ::2], image)


@pytest.mark.parametrize(
    "options", [{"classes": 11}, {"image_size": 12}, {"correlation": 1.5}, {"label_noise": -0.1}]
)
def test_options_out_of_range_are_named(options):
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"{name} = {value}"):
        ColoredDigits(**options)
