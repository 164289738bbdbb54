"""Real images, and the real lists of sets without images, in their authors' layouts: all arrive."""

import gzip
import io
import pathlib

import numpy as np
import pytest
from conftest import DATA
from layouts import cifar10, mnist, waterbirds
from PIL import Image

from fairkd_jax import registry
from fairkd_jax.benchmark import synthetic
from fairkd_jax.data import preparing
from fairkd_jax.data.archives import Source
from fairkd_jax.data.sets.celeba import ATTRIBUTES

pytestmark = pytest.mark.skipif(DATA is None, reason="no folder of real data: set FAIRKD_DATA")


def prepared(name, source, tmp_path, **options):
    """A set prepared from a folder."""
    original = registry.plugin("sets", name).original
    preparing.prepare(original, Source(source), str(tmp_path / "data"), part=True)
    return registry.build("sets", {"name": name, "data_dir": str(tmp_path / "data"), **options})


def arrays(name, part):
    with np.load(DATA / name / f"{part}.npz", allow_pickle=False) as found:
        return {key: found[key] for key in found.files}


def jpegs(found, rows):
    data, ends = found["jpeg"], found["offsets"]
    return [data[ends[row] : ends[row + 1]].tobytes() for row in rows]


def test_mnist_from_its_idx_files(tmp_path):
    real = {p: arrays("mnist_subset", n) for p, n in (("train", "train"), ("t10k", "test"))}
    parts = {p: (a["images"][::10], a["label"][::10]) for p, a in real.items()}
    mnist.write(tmp_path, parts)
    digits = prepared("mnist", tmp_path, tmp_path, strength=1.0, plant="patch", val=0.2)
    splits = {name: digits.load(name) for name in ("train", "val", "test")}
    assert {name: len(s) for name, s in splits.items()} == {"train": 2400, "val": 600, "test": 500}
    test = splits["test"].columns
    np.testing.assert_array_equal(test["label"], parts["t10k"][1])
    images = test["image"][:]
    np.testing.assert_array_equal(images[:, 7:, 7:, 1], parts["t10k"][0][:, 7:, 7:])
    own = splits["train"].counts().reshape(10, 10)
    shares = own.diagonal() / own.sum(1)
    np.testing.assert_allclose(shares, 0.95, atol=0.01)
    everywhere = splits["val"].counts().reshape(10, 10)
    assert np.ptp(everywhere, axis=1).max() <= 1  # each value as often as another


def test_cifar10_from_its_binary_archive(tmp_path):
    parts = {}
    for part in ("train", "test"):
        found = arrays("cifar10_subset", part)
        rows = range(0, len(found["label"]), 50)
        images = [Image.open(io.BytesIO(d)).convert("RGB") for d in jpegs(found, rows)]
        parts[part] = np.stack([*map(np.asarray, images)]), found["label"][::50]
    cifar10.write(tmp_path, parts)
    things = prepared("cifar10", tmp_path, tmp_path, plant="patch", strength=0.5)
    splits = {name: things.load(name) for name in ("train", "val", "test")}
    assert {name: len(s) for name, s in splits.items()} == {"train": 360, "val": 40, "test": 100}
    test = splits["test"].columns
    np.testing.assert_array_equal(test["label"], parts["test"][1])
    np.testing.assert_array_equal(test["image"][:][:, 4:], parts["test"][0][:, 4:])
    assert things.info.label_names[6] == "frog"


def test_utkface_by_its_file_names(tmp_path):
    folder = tmp_path / "UTKFace"
    folder.mkdir()
    gender, race = [], []
    for part in ("train", "validation", "test"):
        found = arrays("utkface_subset", part)
        rows = range(0, len(found["age"]), 8)
        for name, data in zip(found["source_file"][::8].tolist(), jpegs(found, rows)):
            (folder / pathlib.PurePath(name).name).write_bytes(data)
        gender.extend(found["gender"][::8])
        race.extend(found["race"][::8])
    faces = prepared("utkface", tmp_path, tmp_path, label="gender", attribute="race", size=64)
    counts = sum(faces.load(split).counts() for split in faces.splits)
    expected = np.bincount(5 * np.array(gender, int) + np.array(race), minlength=10)
    np.testing.assert_array_equal(counts, expected)
    whole = faces.load("train").columns["image"]
    assert whole.shape[1:] == (64, 64, 3)
    other = prepared("utkface", tmp_path, tmp_path, attribute="age", ages=(20, 60))
    assert other.info.attribute_names == ("under 20", "20 to 59", "60 and over")
    assert sum(len(other.load(s)) for s in other.splits) == counts.sum()


def lines(name, file):
    with gzip.open(DATA / name / file, "rt") as opened:
        return [line.rstrip("\n").split("\t") for line in opened]


def test_celeba_by_its_real_lists(tmp_path):
    header, *rows = lines("celeba_metadata", "attributes_first20k.tsv.gz")
    _, *parts = lines("celeba_metadata", "partition.tsv.gz")
    rows, named = rows[:400], {row[0]: row[1] for row in parts}
    assert {*ATTRIBUTES} == {*header[1:]} - {"partition"} and len(named) == 202_599
    order = [header.index(name) for name in ATTRIBUTES]
    synthetic.write_celeba(tmp_path, len(rows))  # images of these names; then the real lists
    (tmp_path / "list_attr_celeba.txt").write_text(
        "\n".join(
            [str(len(rows)), " ".join(ATTRIBUTES)]
            + [f"{row[0]} {' '.join(row[i].rjust(2) for i in order)}" for row in rows]
        )
    )
    (tmp_path / "list_eval_partition.txt").write_text(
        "\n".join(f"{row[0]} {named[row[0]]}" for row in rows)
    )
    faces = prepared("celeba", tmp_path, tmp_path, size=32)
    train = faces.load("train")
    blond, male = header.index("Blond_Hair"), header.index("Male")
    told = [2 * (row[blond] == "1") + (row[male] == "1") for row in rows]
    np.testing.assert_array_equal(train.counts(), np.bincount(told, minlength=4))
    assert train.columns["image"][np.array([3, 0])].shape == (2, 32, 32, 3)
    counts = [row[1] for row in parts]
    for split, number in (("train", "0"), ("val", "1"), ("test", "2")):
        assert faces.original.published[split]["examples"] == counts.count(number)


def test_waterbirds_by_real_rows(tmp_path):
    header, *rows = lines("waterbirds_metadata", "metadata.tsv.gz")
    at = {name: header.index(name) for name in ("img_filename", "y", "split", "place")}
    chosen = [[row[at[k]] for k in at] for row in rows[::20]]
    waterbirds.write(tmp_path, [(f, int(y), int(s), int(p)) for f, y, s, p in chosen])
    birds = prepared("waterbirds", tmp_path, tmp_path, size=28)
    for number, split in enumerate(birds.splits):
        mine = [2 * int(y) + int(p) for _, y, s, p in chosen if int(s) == number]
        loaded = birds.load(split)
        np.testing.assert_array_equal(loaded.counts(), np.bincount(mine, minlength=4))
        assert loaded.columns["image"][:2].shape == (2, 28, 28, 3)


def test_published_groups_add_up():
    for name in ("celeba", "waterbirds"):
        for counts in registry.plugin("sets", name).original.published.values():
            total, *groups = counts.values()
            assert sum(groups) == total and len(groups) == 4
