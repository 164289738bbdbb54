"""Every form in which sets of text are distributed is read alike, and what is wrong is refused."""

import dataclasses
import gzip
import json
import shutil
import struct
import zipfile

import jax
import numpy as np
import published_files
import pyarrow
import pytest
from conftest import prepared
from layouts import civil_comments
from pyarrow import parquet

from fairkd_jax import files, registry
from fairkd_jax.config import Data
from fairkd_jax.data import pairs, pipeline
from fairkd_jax.data import prepared as prepared_sets
from fairkd_jax.data.archives import Missing, Source
from fairkd_jax.data.preparing import prepare, verify

MADE = published_files.rows(published_files.PAIRS, 42)
KEPT = [row for row in MADE if row["gold_label"] != "-"]
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


def write_snli(place, suffix):
    for part in ("train", "dev", "test"):
        path = place / "snli_1.0" / f"snli_1.0_{part}{suffix}"
        write = published_files.write_jsonl if "json" in suffix else published_files.write_table
        write(path, published_files.SNLI, MADE)


def test_snli_in_every_form(tmp_path):
    write_snli(tmp_path / "jsonl", ".jsonl")
    write_snli(tmp_path / "txt", ".txt")
    write_snli(tmp_path / "gz", ".jsonl")
    for path in [*(tmp_path / "gz").rglob("*.jsonl")]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    shutil.make_archive(str(tmp_path / "zip" / "snli_1.0"), "zip", tmp_path / "txt")
    for part in ("train", "validation", "test"):
        write_parquet(tmp_path / "hub" / "plain_text" / f"{part}-00000-of-00001.parquet", MADE)
        # The hub's numbers are in an order of their own, told beside them.
        path = tmp_path / "turned" / f"{part}-00000-of-00001.parquet"
        write_parquet(path, MADE, pairs.LABELS[::-1])
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
        published_files.write_table(path, published_files.MNLI, MADE)
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
        for row in MADE
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


def snli(place):
    write_snli(place, ".txt")
    return place / "snli_1.0" / "snli_1.0_test.txt"


def edit(path, line, change):
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = change(lines[line - 1])
    path.write_bytes(b"".join(lines))


def missing(path):
    path.unlink()
    return r"holds no file .*snli_1\.0_test\.txt.*there is .*train"


def repeated(path):
    edit(path, 5, lambda line: line + line)
    return r"pair_id '3\.jpg#2r1n' of .*test\.txt, line 6 is that of .*test\.txt, line 5 too"


def wrong_word(path):
    edit(path, 2, lambda line: line.replace(b"entailment", b"entailmint", 1))
    return r"label in .*test\.txt, line 2: 'entailmint'\. Did you mean 'entailment'"


def swapped(path):
    turned = {b"gold_label": b"sentence1", b"sentence1": b"gold_label"}
    edit(path, 1, lambda line: b"\t".join(turned.get(name, name) for name in line.split(b"\t")))
    return r"label in .*test\.txt, line 2: '0 A man says"


def not_utf8(path):
    edit(path, 2, lambda line: line.replace("ë".encode(), b"\xeb"))
    return r"test\.txt: line 2: byte 0xeb at place \d+ is not UTF-8"


def short_row(path):
    edit(path, 7, lambda line: line.split(b"\t", 3)[0] + b"\n")
    return r"test\.txt: line 7 has 1 fields, the header has 14"


def cut_gzip(path):
    whole = gzip.compress(path.read_bytes())
    path.unlink()
    path.with_name(f"{path.name}.gz").write_bytes(whole[: len(whole) // 2])
    return r"test\.txt\.gz: broken after line \d+"


def row_too_few(path):
    edit(path, 43, lambda line: b"")
    return (
        r"split 'test' of snli, which ends with .*test\.txt, line 42, .*examples: 41, expected 42"
    )


@pytest.mark.parametrize(
    "plant",
    [missing, repeated, wrong_word, swapped, not_utf8, short_row, cut_gzip, row_too_few],
)
def test_what_is_wrong_is_told_with_file_and_line_and_leaves_nothing(tmp_path, plant):
    told = plant(snli(tmp_path / "source"))
    wanted = {split: {"examples": 42} for split in ("train", "val", "test")}
    one = dataclasses.replace(original("snli"), published=wanted)
    with pytest.raises(ValueError, match=told):
        prepare(one, Source(tmp_path / "source"), str(tmp_path / "prepared"))
    assert not [*(tmp_path / "prepared").rglob("*.array_record*")]
    assert not [*(tmp_path / "prepared").rglob("dataset_info.json")]


def test_a_damaged_archive_is_told(tmp_path):
    snli(tmp_path / "txt")
    shutil.make_archive(str(tmp_path / "snli_1.0"), "zip", tmp_path / "txt")
    whole = (tmp_path / "snli_1.0.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.zip is no whole \.zip"):
        Source(tmp_path / "cut.zip")
    with zipfile.ZipFile(tmp_path / "snli_1.0.zip") as archive:
        place = archive.getinfo("snli_1.0/snli_1.0_dev.txt").header_offset + 200
    (tmp_path / "bent.zip").write_bytes(whole[:place] + b"????" + whole[place + 4 :])
    with pytest.raises(ValueError, match=r"bent\.zip/snli_1\.0/snli_1\.0_dev\.txt: broken after"):
        prepare(original("snli"), Source(tmp_path / "bent.zip"), str(tmp_path / "p"), part=True)


def test_a_share_that_is_none_is_told(tmp_path):
    civil_comments.write(tmp_path)
    path = tmp_path / "all_data_with_identities.csv"
    path.write_text(path.read_text().replace(",0.6,", ",1.6,", 1))
    with pytest.raises(ValueError, match=r"toxicity in .*csv, line \d+ = '1\.6', expected a share"):
        prepare(original("civil_comments"), Source(tmp_path), str(tmp_path / "p"), part=True)


def test_a_part_is_prepared_where_that_is_asked_for(tmp_path):
    published_files.write_table(
        tmp_path / "heuristics_evaluation_set.txt",
        published_files.HANS,
        published_files.rows(published_files.HANS_PAIRS, 12),
    )
    with pytest.raises(Missing, match=r"heuristics_train_set.*--part prepares the splits"):
        prepare(original("hans"), Source(tmp_path), str(tmp_path / "p"))
    folder = prepare(original("hans"), Source(tmp_path), str(tmp_path / "p"), part=True)
    assert verify(original("hans"), folder) == {"test": 12}
    dataset = registry.build("sets", {"name": "hans", "data_dir": str(tmp_path / "p")})
    assert len(dataset.load("test")) == 12
    with pytest.raises(registry.UnknownName, match="'train'"):
        dataset.load("train")
    with pytest.raises(Missing, match=r"holds no file multinli_1\.0_train\.jsonl"):
        prepare(original("mnli"), Source(tmp_path), str(tmp_path / "p"), part=True)


def test_two_do_not_prepare_one_set_at_once(tmp_path):
    snli(tmp_path / "source")
    said = []

    def watch(split, total, examples):
        with pytest.raises(ValueError, match=r"another process prepares .*snli: wait"):
            prepare(original("snli"), Source(tmp_path / "source"), str(tmp_path), part=True)
        said.append(split)
        return examples

    source = Source(tmp_path / "source")
    folder = prepare(original("snli"), source, str(tmp_path), part=True, watch=watch)
    assert said == ["train", "val", "test"] and len(verify(original("snli"), folder)) == 3


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_prepared_folder_that_was_damaged_is_told(tmp_path, damage):
    snli(tmp_path / "source")
    folder = prepare(original("snli"), Source(tmp_path / "source"), str(tmp_path), part=True)
    (path,) = folder.glob("*train*")
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:5000])
    prepared_sets._builder.cache_clear()
    with pytest.raises(ValueError, match=r"snli/3\.0\.0 is damaged, remove it and prepare"):
        verify(original("snli"), folder)


def test_a_prepared_set_is_trained_on_and_known_by_its_content_alone(tmp_path):
    snli(tmp_path / "source")
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
