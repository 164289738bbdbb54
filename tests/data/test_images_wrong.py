"""What is wrong with files of images is told with the file and the line, before a set appears."""

import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from layouts import celeba, cifar10, image_files, mnist, utkface, waterbirds, waterbirds_made
from PIL import Image

from fairkd_jax import files, registry
from fairkd_jax.data import preparing
from fairkd_jax.data.archives import Source
from fairkd_jax.data.sets import celeba as celeba_set

WATERBIRDS = "waterbird_complete95_forest2water2"


def prepare(name, folder, part=True):
    preparing.prepare(
        registry.plugin("sets", name).original, Source(folder), str(folder / "data"), part=part
    )


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def unpack(folder):
    """CelebA's images as files."""
    with zipfile.ZipFile(folder / "img_align_celeba.zip") as archive:
        archive.extractall(folder)
    (folder / "img_align_celeba.zip").unlink()


def without_an_image(folder):
    unpack(folder)
    (folder / "img_align_celeba" / "000007.jpg").unlink()


def with_a_broken_image(folder):
    unpack(folder)
    path = folder / "img_align_celeba" / "000007.jpg"
    path.write_bytes(path.read_bytes()[:3000])


def with_a_cut_zip(folder):
    path = folder / "img_align_celeba.zip"
    path.write_bytes(path.read_bytes()[:-3000])


def with_a_changed_zip(folder):
    path = folder / "img_align_celeba.zip"
    data = bytearray(path.read_bytes())
    data[5000] ^= 255
    path.write_bytes(data)


def with_a_row_less(folder):
    path = folder / "list_attr_celeba.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))


def with_a_row_less_than_parts(folder):
    path = folder / "list_attr_celeba.txt"
    first, *lines = path.read_text().splitlines()[:-1]
    path.write_text("\n".join([str(int(first) - 1), *lines]))


def with_two_of_a_name(folder):
    replace(folder / "list_attr_celeba.txt", "000008.jpg", "000007.jpg")


def with_another_value(folder):
    replace(folder / "list_attr_celeba.txt", "000007.jpg -1", "000007.jpg 0")


def with_lists_swapped(folder):
    names = "list_attr_celeba.txt", "list_eval_partition.txt"
    texts = [(folder / name).read_text() for name in names]
    for name, text in zip(names, reversed(texts)):
        (folder / name).write_text(text)


def with_another_part(folder):
    replace(folder / "list_eval_partition.txt", "000007.jpg 0", "000007.jpg 3")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_an_image, r"list_attr_celeba.txt, line 9: there is no image 000007.jpg"),
        (with_a_broken_image, r"line 9 is no whole image"),
        (with_a_cut_zip, r"img_align_celeba.zip is no whole .zip"),
        (with_a_changed_zip, r"line \d+: \S*\.jpg is broken: Bad CRC"),
        (with_a_row_less, r"line 1 says that 40 rows follow; line 41, the last, is row 39"),
        (with_a_row_less_than_parts, r"line 41, is the last: 1 images .* 000040.jpg is the first"),
        (with_two_of_a_name, r"'000007.jpg' of .*line 10 is that of .*line 9 too"),
        (with_another_value, r"5_o_Clock_Shadow in .*line 9: '0'. Choices: -1, 1"),
        (with_lists_swapped, r"list_eval_partition.txt, line 2: 'partition'"),
        (with_another_part, r"partition of 000007.jpg in .*list_eval_partition.txt"),
    ],
)
def test_celeba(tmp_path, spoil, message):
    celeba.synthetic(tmp_path, 40)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        prepare("celeba", tmp_path)
    assert not [*(tmp_path / "data" / "celeba").glob("1*")]


def test_counts_of_the_literature_are_asked_for(tmp_path):
    celeba.synthetic(tmp_path, 40)
    with pytest.raises(ValueError, match=r"line 34.* examples: 32, expected 162,770; .*Male"):
        prepare("celeba", tmp_path, part=False)


def test_celeba_as_csv_is_the_same(tmp_path):
    loaded = []
    for form in ("text", "csv", "parquet"):
        folder = tmp_path / form
        celeba.synthetic(folder, 40)
        {"text": lambda _: None, "csv": as_csv, "parquet": as_parquet}[form](folder)
        prepare("celeba", folder)
        faces = celeba_set.Celeba(data_dir=str(folder / "data"), size=32)
        loaded.append([faces.load(split).columns for split in faces.splits])
    for other in loaded[1:]:
        for one, two in zip(loaded[0], other):
            assert all(np.array_equal(one[name][:], two[name][:]) for name in one)


def as_csv(folder):
    unpack(folder)
    _, names, *rows = (folder / "list_attr_celeba.txt").read_text().splitlines()
    header = ",".join(["image_id", *names.split()])
    lines = [",".join(row.split()) for row in rows]
    (folder / "list_attr_celeba.csv").write_text("\n".join([header, *lines]))
    parts = (folder / "list_eval_partition.txt").read_text().replace(" ", ",")
    (folder / "list_eval_partition.csv").write_text(f"image_id,partition\n{parts}")
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        (folder / name).unlink()


def as_parquet(folder):
    """The hub's form: an image's bytes and 40 truth values a row."""
    import pyarrow
    import pyarrow.parquet

    source = Source(folder)
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        rows = [example for _, example in celeba_set._read(source, split)]
        images = [{"bytes": row["image"].getvalue(), "path": row["file"]} for row in rows]
        columns = {k: [row["attributes"][k] for row in rows] for k in celeba_set.ATTRIBUTES}
        table = pyarrow.table({"image": images, "celeb_id": [1] * len(rows), **columns})
        pyarrow.parquet.write_table(table, folder / f"{name}-00000-of-00001.parquet")
    for path in [*folder.glob("*.txt"), *folder.glob("*.zip")]:
        path.unlink()


def test_celeba_as_tfds_prepares_it(tmp_path):
    """Of its features, "file" is not there, and there are two of which nothing is read."""
    celeba.synthetic(tmp_path, 30)
    prepare("celeba", tmp_path)
    original, source = registry.plugin("sets", "celeba").original, Source(tmp_path)

    class CelebA(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name, VERSION = "celeb_a", tfds.core.Version("2.1.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(218, 178, 3), encoding_format="jpeg"),
                "landmarks": {name: np.int64 for name in ("lefteye_x", "lefteye_y")},
                "attributes": {name: np.bool_ for name in celeba_set.ATTRIBUTES},
                "identity": {"Identity_No": np.int64},
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
            )

        def _split_generators(self, manager):
            return {names[0]: self._generate_examples(s) for s, names in original.splits.items()}

        def _generate_examples(self, split):
            for row, (_, example) in enumerate(original.read(source, split)):
                del example["file"]
                marks = {"lefteye_x": row, "lefteye_y": row}
                yield row, {**example, "landmarks": marks, "identity": {"Identity_No": row}}

    tfds.display_progress_bar(False)
    CelebA(data_dir=tmp_path / "theirs", file_format="array_record").download_and_prepare()
    for split in original.splits:
        ours, theirs = (
            celeba_set.Celeba(data_dir=str(tmp_path / name), size=32).load(split).columns
            for name in ("data", "theirs")
        )
        assert all(np.array_equal(ours[name][:], theirs[name][:]) for name in ours)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",1,0,0,", ",0,0,0,", r"metadata.csv, line 2: 001.* is no landbird, as y says"),
        (",1,0,0,", ",waterbird,0,0,", r"y in .*metadata.csv, line 2: 'waterbird'. Choices: 0, 1"),
        (
            "img_id,img_filename,y",
            "img_id,y,img_filename",
            r"y in .*metadata.csv, line 2: '001.*Choices: 0, 1",
        ),
        ("_000.jpg", "_00.jpg", r"metadata.csv, line 2: there is no image 001"),
        ("_001.jpg", "_000.jpg", r"'001.*_000.jpg' of .*line 3 is that of .*line 2 too"),
    ],
)
def test_waterbirds(tmp_path, old, new, message):
    waterbirds.write(tmp_path)
    replace(tmp_path / WATERBIRDS / "metadata.csv", old, new)
    with pytest.raises(ValueError, match=message):
        prepare("waterbirds", tmp_path)


def test_waterbirds_from_an_archive_is_the_same(tmp_path):
    waterbirds.write(tmp_path)
    packed = tmp_path / "waterbirds.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(tmp_path / WATERBIRDS, WATERBIRDS)
    found = [
        [*registry.plugin("sets", "waterbirds").original.read(Source(source), "val")]
        for source in (tmp_path / WATERBIRDS, packed)
    ]
    for (_, one), (_, two) in zip(*found):
        assert one.pop("image").getvalue() == two.pop("image").getvalue()
        assert one == two
    packed.write_bytes(packed.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"waterbirds.tar.gz is no whole .tar"):
        Source(packed)


def test_waterbirds_are_made_as_the_script_makes_them(tmp_path):
    waterbirds_made.write(tmp_path)
    source = Source(tmp_path)
    original = registry.plugin("sets", "waterbirds_made").original
    splits = {s: [e for _, e in original.read(source, s)] for s in original.splits}
    assert {s: len(e) for s, e in splits.items()} == {"train": 8, "val": 2, "test": 10}
    again = [e for _, e in original.read(source, "test")]
    assert again[0]["image"].getvalue() == splits["test"][0]["image"].getvalue()
    for example in splits["test"]:
        pixels = np.asarray(Image.open(example["image"])).astype(int)
        assert pixels.shape == (30, 40, 3)
        assert abs(pixels[12:18, 14:26].mean() - 220) < 10  # the bird, where the mask is white
        shade = {"land": (20, 60), "water": (100, 140)}[example["place"]]
        corner = pixels[:6, :6].mean()
        assert min(abs(corner - s) for s in shade) < 15  # a place of its kind behind it
    places = [e["place_file"] for e in splits["train"]]
    assert len({(e["place"], e["place_file"]) for e in splits["train"]}) > len(places) // 2
    for path in (tmp_path / "data_large" / "o" / "ocean").iterdir():
        path.unlink()
    for path in [*(tmp_path / "data_large" / "l" / "lake" / "natural").iterdir()][:18]:
        path.unlink()
    with pytest.raises(ValueError, match="holds 2 images of ocean, lake/natural; 8 birds"):
        next(iter(original.read(Source(tmp_path), "train")))


def test_idx_files(tmp_path):
    mnist.write(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is no whole .gz"):
        prepare("mnist", tmp_path)
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:-784]))
    with pytest.raises(ValueError, match=r"says that it holds \(100, 28, 28\); 77616 bytes"):
        prepare("mnist", tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").replace(path)
    with pytest.raises(ValueError, match="is no idx file of bytes in 3 dimensions"):
        prepare("mnist", tmp_path)


def test_binary_batches(tmp_path):
    images, labels = cifar10.made()["train"]
    cifar10.write(tmp_path, {"train": (images, labels + 5), "test": (images, labels)})
    with pytest.raises(ValueError, match=r"data_batch_1.bin, image 5: label 10"):
        prepare("cifar10", tmp_path)
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "cifar-10-binary.tar.gz").unlink()
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin"
    path.write_bytes(path.read_bytes()[: 3073 * 3 - 10])
    with pytest.raises(ValueError, match=r"data_batch_1.bin .* cut within image 2"):
        prepare("cifar10", tmp_path)


def test_utkface_leaves_out_names_that_tell_nothing(tmp_path):
    utkface.write(tmp_path)
    prepare("utkface", tmp_path)
    faces = registry.build("sets", {"name": "utkface", "data_dir": str(tmp_path / "data")})
    splits = [faces.load(split) for split in faces.splits]
    assert sum(map(len, splits)) == 80
    assert sum(sum(split.left_out.values()) for split in splits) == 1
    with pytest.raises(ValueError, match=r"UTKFace.*expected 23,708"):
        preparing.prepare(faces.original, Source(tmp_path), str(tmp_path / "other"))


def test_image_files(tmp_path):
    spec = {"name": "image_files", **image_files.write(tmp_path)}
    images = registry.build("sets", spec)
    assert images.load("train").columns["image"][:].shape == (16, 12, 12, 3)
    known = {name: files.digest(path) for name, path in images.reads("train").items()}
    path = tmp_path / "pictures" / "a2.png"
    path.write_bytes(path.read_bytes()[:60])
    changed = {name: files.digest(path) for name, path in images.reads("train").items()}
    assert [name for name in known if known[name] != changed[name]] == ["images"]
    with pytest.raises(ValueError, match=r"a2.png is no whole image"):
        images.load("train").columns["image"][:]
    path.unlink()
    with pytest.raises(ValueError, match=r"about.csv, line 4: .*holds no image 'a2.png'"):
        images.load("train")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        registry.build("sets", spec | {"images": "nowhere"})


def test_a_grey_image_and_one_with_a_palette_have_three_channels(tmp_path):
    spec = {"name": "image_files", **image_files.write(tmp_path)}
    for number, mode in ((0, "L"), (2, "P"), (4, "RGBA")):
        written = io.BytesIO()
        Image.new(mode, (30, 20), 1 if mode == "P" else "white").save(written, "PNG")
        (tmp_path / "pictures" / f"a{number}.png").write_bytes(written.getvalue())
    assert registry.build("sets", spec).load("train").columns["image"][:5].shape == (5, 12, 12, 3)
