"""Every form in which sets of text are distributed is read alike, and what is wrong is refused."""

import dataclasses
import gzip
import json
import shutil
import struct

import jax
import numpy as np
import published_files
import pyarrow
import pytest
from conftest import prepared
from layouts import civil_comments, snli
from pyarrow import parquet

from fairkd_jax import files, registry
from fairkd_jax.config import Data
from fairkd_jax.data import pairs, pipeline
from fairkd_jax.data import prepared as prepared_sets
from fairkd_jax.data.archives import Source
from fairkd_jax.data.preparing import prepare

KEPT = [row for row in snli.ROWS if row["gold_label"] != "-"]
MNLI_PARTS = ("train", "dev_matched", "dev_mismatched")


def original(name):
    return registry.plugin("sets", name).original


def load(name, folder, source, split="train", **options):
    prepare(original(name), Source(source), str(folder), part=True)
    return registry.build("sets", {"name": name, "data_dir": str(folder), **options}).load(split)


def write_parquet(path, rows, names=pairs.LABELS):
    """As the hub has it: labels are numbers, their names in the metadata; -1 is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(
        [
            {
                "premise": row["sentence1"],
                "hypothesis": row["sentence2"],
                "label": -1 if row["gold_label"] == "-" else names.index(row["gold_label"]),
            }
            for row in rows
        ]
    )
    features = {"label": {"names": list(names), "_type": "ClassLabel"}}
    told = json.dumps({"info": {"features": features}})
    parquet.write_table(table.replace_schema_metadata({"huggingface": told}), path)


def test_snli_in_every_form(tmp_path):
    snli.write(tmp_path / "jsonl", ".jsonl")
    snli.write(tmp_path / "txt", ".txt")
    snli.write(tmp_path / "gz", ".jsonl")
    for path in [*(tmp_path / "gz").rglob("*.jsonl")]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    shutil.make_archive(str(tmp_path / "zip" / "snli_1.0"), "zip", tmp_path / "txt")
    for part in ("train", "validation", "test"):
        write_parquet(tmp_path / "hub" / "plain_text" / f"{part}-00000-of-00001.parquet", snli.ROWS)
        # The hub's numbers are in an order of their own, told beside them.
        path = tmp_path / "turned" / f"{part}-00000-of-00001.parquet"
        write_parquet(path, snli.ROWS, pairs.LABELS[::-1])
    sources = ("jsonl", "txt", "gz", "zip", "zip/snli_1.0.zip", "hub", "turned")
    for i, source in enumerate(sources):
        split = load("snli", tmp_path / f"prepared{i}", tmp_path / source)
        assert split.left_out == {"no label": 6}
        names = [split.info.label_names[y] for y in split.columns["label"]]
        assert names == [row["gold_label"] for row in KEPT]
        assert split.columns["premise"].tolist() == [row["sentence1"] for row in KEPT]
        assert split.columns["hypothesis"].tolist() == [row["sentence2"] for row in KEPT]


def test_mnli_in_every_form(tmp_path):
    for part in MNLI_PARTS:
        path = tmp_path / "txt" / "multinli_1.0" / f"multinli_1.0_{part}.txt"
        published_files.write_table(path, published_files.MNLI, snli.ROWS)
        path = tmp_path / "glue" / "MNLI" / f"{part}.tsv"
        published_files.write_table(path, published_files.GLUE, KEPT)
        part = part.replace("dev", "validation")
        write_parquet(tmp_path / "hub" / "mnli" / f"{part}-00000-of-00001.parquet", KEPT)
        write_parquet(tmp_path / "hub" / "qqp" / f"{part}-00000-of-00001.parquet", KEPT[:2])
    shutil.make_archive(str(tmp_path / "zip" / "MNLI"), "zip", tmp_path / "glue")
    for source in ("txt", "glue", "zip/MNLI.zip", "hub"):
        folder = tmp_path / f"prepared {source.replace('/', ' ')}"
        for split in ("train", "matched", "mismatched"):
            found = load("mnli", folder, tmp_path / source, split)
            assert len(found) == 36
            assert found.columns["premise"].tolist() == [row["sentence1"] for row in KEPT]
        genres = [f"genre={genre}" for genre in ("fiction", "slate", "travel")]
        assert list(found.info.subpopulations) == ([] if source == "hub" else genres)


def builder(folder, called, config, version, features, splits):
    """A folder of TFDS, as its own builder of that name writes it."""
    import tensorflow_datasets as tfds

    configs = [tfds.core.BuilderConfig(name=config, version=version)] if config else []

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = called
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = configs

        def _info(self):
            made = features(tfds.features)
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(made))

        def _split_generators(self, manager):
            return {split: self._generate_examples(rows) for split, rows in splits.items()}

        def _generate_examples(self, rows):
            yield from enumerate(rows)

    made = Builder(data_dir=folder, file_format="array_record", config=config or None)
    made.download_and_prepare()


def of_pairs(premise="premise", **more):
    def features(tfds):
        texts = {name: tfds.Text() for name in (premise, "hypothesis", *more)}
        return texts | {"label": tfds.ClassLabel(names=pairs.LABELS)}

    rows = [
        {premise: row["sentence1"], "hypothesis": row["sentence2"], **dict.fromkeys(more, "x")}
        | {"label": row["gold_label"] if row["gold_label"] != "-" else -1}
        for row in snli.ROWS
    ]
    return features, rows


@pytest.mark.parametrize(
    ("name", "theirs", "config", "splits", "options"),
    [
        ("snli", "snli", "", ("train", "validation", "test"), {}),
        ("mnli", "glue", "mnli", ("train", "validation_matched", "validation_mismatched"), {}),
        ("mnli", "multi_nli", "", ("train", "validation_matched", "validation_mismatched"), {}),
        ("anli", "anli", "r2", ("train", "validation", "test"), {"rounds": ["r2"]}),
    ],
)
def test_a_folder_that_tfds_prepared_is_read_as_it_is(
    tmp_path, name, theirs, config, splits, options
):
    features, rows = of_pairs("context" if theirs == "anli" else "premise")
    builder(tmp_path, theirs, config, "1.1.0", features, dict.fromkeys(splits, rows))
    dataset = registry.build("sets", {"name": name, "data_dir": str(tmp_path), **options})
    for split in dataset.splits:
        found = dataset.load(split)
        assert len(found) == 36 and found.left_out == {"no label": 6}
        assert {*found.columns["premise"]} == {row["sentence1"] for row in KEPT}
        assert dataset.reads(split)


def as_tfrecord(folder):
    """Turns a folder of array_record into what TFDS writes unless told otherwise."""
    import tensorflow_datasets as tfds

    made, raw = tfds.builder_from_directory(folder), tfds.decode.DeserializeMethod.RAW_BYTES
    for split in made.info.splits:
        (path,) = folder.glob(f"*-{split}.array_record*")
        source = made.as_data_source(split=split, deserialize_method=raw)
        parts = ((struct.pack("<Q", len(r)), bytes(4), r, bytes(4)) for r in source)
        name = path.name.replace("array_record", "tfrecord")
        path.with_name(name).write_bytes(b"".join(b"".join(part) for part in parts))
        path.unlink()
    about = folder / "dataset_info.json"
    about.write_text(about.read_text().replace("array_record", "tfrecord"))
    prepared_sets._builder.cache_clear()


def test_a_folder_of_tfrecord_is_read_too(tmp_path):
    features, rows = of_pairs()
    splits = dict.fromkeys(("train", "validation", "test"), rows)
    builder(tmp_path, "snli", "", "1.1.0", features, splits)
    dataset = registry.build("sets", {"name": "snli", "data_dir": str(tmp_path)})
    before = {split: dataset.load(split).columns for split in dataset.splits}
    as_tfrecord(tmp_path / "snli" / "1.1.0")
    for split, columns in before.items():
        assert [p.suffix[:9] for p in dataset.reads(split).values()] == [".json", ".tfrecord"]
        for key, values in dataset.load(split).columns.items():
            np.testing.assert_array_equal(values, columns[key])
    (path,) = (tmp_path / "snli" / "1.1.0").glob("*-test.tfrecord*")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(
        ValueError, match=r"snli-test\.tfrecord.* is cut, or no \.tfrecord: record 4"
    ):
        dataset.load("test")


def test_civil_comments_of_tfds_have_the_identities_of_wilds(tmp_path):
    cls = registry.plugin("sets", "civil_comments")
    module = __import__(cls.__module__, fromlist=["TOGETHER"])
    parts = {k: module.TOGETHER.get(k, (k,)) for k in module.IDENTITIES}
    flat = [feature for several in parts.values() for feature in several]
    rows = [
        {"text": f"comment {i}", "toxicity": (0.2, 0.5)[i // len(flat)]}
        | {name: float(i % len(flat) == k) for k, name in enumerate(flat)}
        for i in range(2 * len(flat))
    ]

    def features(tfds):
        return {k: tfds.Text() if k == "text" else tfds.Scalar(np.float32) for k in rows[0]}

    name = "CivilCommentsIdentities"
    splits = dict.fromkeys(("train", "validation", "test"), rows)
    builder(tmp_path, "civil_comments", name, "1.2.4", features, splits)
    split = cls(data_dir=str(tmp_path), attribute="LGBTQ").load("val")
    sizes = [len(several) for several in parts.values() for _ in (0, 1)]
    assert split.member_counts().tolist() == sizes
    assert split.counts().tolist() == [len(flat) - 5, 5] * 2


def test_civil_comments_of_wilds(tmp_path):
    """A share of a half is enough; a table of pandas says the same."""
    import pandas

    civil_comments.write(tmp_path)
    table = pandas.read_csv(tmp_path / "all_data_with_identities.csv", index_col=0)
    dataset = registry.plugin("sets", "civil_comments")(data_dir=prepared("civil_comments"))
    for split in dataset.splits:
        found, rows = dataset.load(split), table[table["split"] == split]
        assert found.columns["text"].tolist() == rows["comment_text"].tolist()
        toxic = (rows["toxicity"] >= 0.5).to_numpy()
        assert found.columns["label"].tolist() == toxic.tolist()
        assert found.columns["attribute"].tolist() == (rows["identity_any"] >= 0.5).tolist()
        for name, inside in zip(found.info.subpopulations, found.columns["member"].T):
            label, identity = int(name[2]), name.split("_", 1)[1].removesuffix(":1")
            wanted = (rows[identity] >= 0.5) & (toxic == label)
            assert inside.tolist() == wanted.tolist(), name
    with pytest.raises(registry.UnknownName, match=r"attribute 'blak'.*'black'"):
        _ = dataclasses.replace(dataset, attribute="blak").info


def test_a_prepared_set_is_trained_on_and_known_by_its_content_alone(tmp_path):
    snli.write(tmp_path / "source")
    load("snli", tmp_path / "here", tmp_path / "source")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    views = {"wordpiece": {"name": "wordpiece", "length": 16, "vocab_size": 200}}
    read, batches = [], []
    for place in ("here", "there"):
        spec = {"name": "snli", "data_dir": str(tmp_path / place)}
        named = registry.build("sets", spec).reads("train")
        assert all(tmp_path / place in path.parents for path in named.values())
        read.append({name: files.digest(path) for name, path in named.items()})
        opened = pipeline.open_data(Data(set=spec, views=views))
        batches.append(opened.source("val").batch(np.arange(4)))
    assert read[0] == read[1] and len(read[0]) == 2
    assert registry.places("sets", spec) == ("data_dir",)
    jax.tree.map(np.testing.assert_array_equal, *batches)
    columns = opened.dataset.load("val").columns
    np.testing.assert_array_equal(opened.dataset.attribute_of(columns), columns["attribute"])
