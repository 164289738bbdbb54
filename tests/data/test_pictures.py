"""Images that are decoded when rows are asked for, cut to a stated frame, and planted shortcuts."""

import io
import threading

import numpy as np
import pytest
from conftest import set_spec
from PIL import Image

from fairkd_jax import registry
from fairkd_jax.data import corruptions, pictures, planting, sheet
from fairkd_jax.registry import UnknownName


def file(pixels, kind="PNG"):
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, kind)
    return written.getvalue()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 255, (20, 30, 24, 3), np.uint8)


def column(images, **options):
    data = [file(image) for image in images]

    def read(rows):
        return [(f"image {row}", data[row]) for row in rows]

    return pictures.Pictures(read, len(images), 16, "square", **options)


def test_rows_do_not_depend_on_how_many_threads_read_them(images):
    one, three = column(images, threads=1), column(images, threads=3)
    order = np.random.default_rng(1).permutation(20)
    np.testing.assert_array_equal(one[order], three[order])
    np.testing.assert_array_equal(one[:][order], three[order])
    assert one[order[:0]].shape == (0, 16, 16, 3)
    assert len(one) == 20 and one.shape == (20, 16, 16, 3) and one.dtype == np.uint8


def test_only_the_rows_asked_for_are_read(images):
    asked, names = [], set()

    def read(rows):
        asked.extend(rows.tolist())
        names.add(threading.current_thread().name)
        return [(f"image {row}", file(images[row])) for row in rows]

    column = pictures.Pictures(read, 20, 16, "square", threads=2)
    column[np.array([3, 17, 5])]
    assert sorted(asked) == [3, 5, 17]
    assert threading.current_thread().name not in names


def test_a_broken_image_is_named(images):
    whole = file(images[0], "JPEG")
    broken = pictures.Pictures(lambda rows: [("a.jpg", whole[:300])], 1, 16, "whole")
    with pytest.raises(ValueError, match=r"a.jpg is no whole image"):
        broken[:]


def test_frames_are_those_of_the_published_recipes(images):
    opened = Image.fromarray(images[0])  # 24 wide, 30 high
    bilinear = Image.Resampling.BILINEAR
    expected = {
        "square": opened.crop((0, 3, 24, 27)).resize((16, 16), bilinear),
        "whole": opened.resize((16, 16), bilinear),
        "margin": opened.resize((18, 18), bilinear).crop((1, 1, 17, 17)),
    }
    assert expected.keys() == pictures.FRAMES.keys()
    for frame, image in expected.items():
        found = pictures.decoded(file(images[0]), 16, frame)
        np.testing.assert_array_equal(found, np.asarray(image))
    with pytest.raises(
        UnknownName, match=r"frame of a set: 'round'. Choices: margin, square, whole"
    ):
        pictures.check("a set", 16, "round")


@pytest.mark.parametrize("kind", corruptions.KINDS)
def test_a_corruption_grows_and_is_drawn_from_the_generator_alone(images, kind):
    smooth = np.asarray(Image.fromarray(images[0]).resize((32, 32), Image.Resampling.BICUBIC))

    def at(severity, seed=0):
        rng = np.random.default_rng(seed)
        return corruptions.corrupted(smooth, kind, severity, rng)

    changes = [np.abs(at(s).astype(float) - smooth).mean() for s in corruptions.SEVERITIES]
    assert at(3).shape == (32, 32, 3) and at(3).dtype == np.uint8
    assert min(changes) > 0 and len({*changes}) == 5
    if kind != "saturate":  # whose first two severities take colour away, the others add some
        assert changes == sorted(changes)
    np.testing.assert_array_equal(at(3), at(3))


def test_constants_of_noise_contrast_and_brightness_are_the_published_ones():
    grey = np.full((64, 64, 3), 128, np.uint8)
    rng = np.random.default_rng(0)
    noisy = corruptions.corrupted(grey, "gaussian_noise", 5, rng).astype(float)
    assert abs(noisy.std() / 255 - 0.10) < 0.002
    halves = grey.copy()
    halves[:32] = 28
    contrast = corruptions.corrupted(halves, "contrast", 5, rng).astype(float)
    assert abs((contrast.max() - contrast.min()) - 0.15 * 100) <= 1
    bright = corruptions.corrupted(grey, "brightness", 2, rng).astype(float)
    assert abs(bright.mean() - (128 + 0.1 * 255)) <= 1
    salt = corruptions.corrupted(grey, "impulse_noise", 5, rng)
    assert abs((salt != 128).mean() - 0.07) < 0.01


def test_shares_that_are_planted_are_exact():
    rng, label = np.random.default_rng(0), np.arange(100) % 4
    value = planting.moved(label, 0.2, 4, rng)
    assert [int((value[label == y] == y).sum()) for y in range(4)] == [20] * 4
    balanced = planting.spread(label, 4, rng)
    assert {n for y in range(4) for n in np.bincount(balanced[label == y])} == {6, 7}


@pytest.mark.parametrize("plant", planting.PLANTS)
def test_a_planted_image_is_the_same_alone_and_among_others(plant):
    dataset = registry.build("sets", set_spec("cifar10") | {"plant": plant})
    for split in ("train", "corrupted"):
        image = dataset.load(split).columns["image"]
        rows = np.array([40, 3, 77])
        alone = np.concatenate([image[np.array([row])] for row in rows])
        np.testing.assert_array_equal(image[rows], alone)


def test_corrupted_images_are_scored_by_kind_and_severity():
    options = {"kinds": ("contrast", "pixelate"), "severities": (1, 5), "plant": "colour"}
    dataset = registry.build("sets", set_spec("mnist") | options)
    split, test = dataset.load("corrupted"), dataset.load("test")
    assert split.info.subpopulations == ("contrast 1", "contrast 5", "pixelate 1", "pixelate 5")
    np.testing.assert_array_equal(split.member_counts(), [len(test)] * 4)
    np.testing.assert_array_equal(split.columns["label"][::4], test.columns["label"])
    assert (split.columns["image"][:4] != test.columns["image"][:1]).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plant": "hat"}, "plant of mnist: 'hat'"),
        ({"strength": 0}, "strength = 0"),
        ({"correlation": 1.5}, "correlation = 1.5"),
        ({"kinds": ("fog",)}, "kinds of mnist: 'fog'"),
        ({"plant": "corruption", "kinds": ("contrast",)}, "10 classes need as many values"),
        ({"severities": (0,)}, r"severities = \(0,\)"),
        ({"classes": 1}, "classes = 1"),
    ],
)
def test_options_that_cannot_be_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        registry.build("sets", {"name": "mnist", **options})


def test_a_sheet_has_a_row_for_each_group_that_has_examples(tmp_path):
    dataset = registry.build("sets", set_spec("waterbirds") | {"size": 24})
    splits = {split: dataset.load(split) for split in ("train", "test")}
    sheet.write(tmp_path / "examples.png", splits)
    with Image.open(tmp_path / "examples.png") as drawn:
        pixels = np.asarray(drawn)
    row = sheet.SIDE + sheet.GAP
    assert pixels.shape[0] == 2 * sheet.LINE + 4 * row + sheet.GAP
    first = pixels[2 * sheet.LINE :][: sheet.SIDE, sheet.WORDS :][:, : sheet.SIDE]
    columns = splits["train"].columns
    shown = columns["image"][np.flatnonzero(columns["group"] == 0)[:1]][0]
    expected = Image.fromarray(shown).resize((sheet.SIDE, sheet.SIDE), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(first, np.asarray(expected))
