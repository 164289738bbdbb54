"""What is wrong with the files of a set of text is told with file and line, and nothing is left."""

import dataclasses
import gzip
import shutil
import zipfile

import published_files
import pytest
from layouts import civil_comments, snli

from fairkd_jax import registry
from fairkd_jax.data import prepared
from fairkd_jax.data.archives import Missing, Source
from fairkd_jax.data.preparing import prepare, verify


def original(name):
    return registry.plugin("sets", name).original


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
    told = plant(snli.write(tmp_path / "source", ".txt"))
    wanted = {split: {"examples": 42} for split in ("train", "val", "test")}
    one = dataclasses.replace(original("snli"), published=wanted)
    with pytest.raises(ValueError, match=told):
        prepare(one, Source(tmp_path / "source"), str(tmp_path / "prepared"))
    assert not [*(tmp_path / "prepared").rglob("*.array_record*")]
    assert not [*(tmp_path / "prepared").rglob("dataset_info.json")]


def test_a_damaged_archive_is_told(tmp_path):
    snli.write(tmp_path / "txt", ".txt")
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
    snli.write(tmp_path / "source", ".txt")
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
    snli.write(tmp_path / "source", ".txt")
    folder = prepare(original("snli"), Source(tmp_path / "source"), str(tmp_path), part=True)
    (path,) = folder.glob("*train*")
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:5000])
    prepared._builder.cache_clear()
    with pytest.raises(ValueError, match=r"snli/3\.0\.0 is damaged, remove it and prepare"):
        verify(original("snli"), folder)
