"""What is made once of data: whole or made again, by whoever comes first."""

import dataclasses
import json
import multiprocessing
import os

import numpy as np
import pytest

from fairkd_jax.config import Data
from fairkd_jax.data import kept, pipeline, text
from fairkd_jax.data.dataset import Info, make_split
from fairkd_jax.data.encoded import Tokens, encoded
from fairkd_jax.data.kept import keep
from fairkd_jax.data.sets.nli_files import NliFiles
from fairkd_jax.data.views import unigram, wordpiece
from fairkd_jax.data.views.unigram import Unigram
from fairkd_jax.data.views.wordpiece import Wordpiece

pytestmark = pytest.mark.quick

CACHES = ("_split", "_loaded", "_encoders", "_source", "_dataset")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fairkd_jax" / "kept"


def make(writer):
    writer.add("rows", np.arange(3, dtype=np.int32))
    writer.add("rows", np.arange(2, dtype=np.int32))
    writer.add("none", np.zeros((0, 4), np.float32))
    return {"a": [1, "b"]}


def never(writer):
    raise AssertionError("it is there")


def check(entry):
    assert entry.facts == {"a": [1, "b"]}
    np.testing.assert_array_equal(entry.arrays["rows"], [0, 1, 2, 0, 1])
    assert entry.arrays["none"].shape == (0, 4)
    assert not entry.arrays["rows"].flags.writeable


def test_an_entry_is_made_once_and_mapped(cache):
    check(keep("things", ["k", 1], make))
    check(keep("things", ["k", 1], never))
    for kind, key in (("things", ["k", 2]), ("others", ["k", 1])):
        with pytest.raises(AssertionError):
            keep(kind, key, never)
    assert len([*cache.glob("*/*")]) == 1  # what failed left nothing


@pytest.mark.parametrize("damage", ["rows", "about.json", "half", "gone"])
def test_what_does_not_hold_what_was_written_is_made_again(cache, damage):
    keep("things", "k", make)
    [place] = cache.glob("things/*")
    if damage == "gone":
        (place / "none").unlink()
    elif damage == "half":
        (place / "about.json").unlink()
    else:
        content = bytearray((place / damage).read_bytes())
        content[0] ^= 1
        (place / damage).write_bytes(content)
    check(keep("things", "k", make))
    check(keep("things", "k", never))
    assert [*cache.glob("things/*")] == [place]


def _racer(start, told):
    start.wait()
    for _ in range(5):
        check(keep("things", "k", make))
    told.put(True)


def test_processes_that_race_all_end_well(cache):
    context = multiprocessing.get_context("spawn")
    start, told = context.Event(), context.Queue()
    racers = [context.Process(target=_racer, args=(start, told)) for _ in range(2)]
    for one in racers:
        one.start()
    start.set()
    for one in racers:
        one.join(60)
    assert [one.exitcode for one in racers] == [0, 0]
    assert len([*cache.glob("things/*")]) == 1


def test_where_nothing_can_be_written_it_is_made_for_this_process(cache, monkeypatch):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file in the way")
    check(keep("things", "k", make))

    def missing(writer):
        raise FileNotFoundError("the file of the set")

    with pytest.raises(FileNotFoundError, match="the file of the set"):
        keep("things", "k", missing)


def test_only_numbers_of_one_kind_are_kept():
    def words(writer):
        writer.add("words", np.array(["a"], object))
        return {}

    def two_kinds(writer):
        writer.add("x", np.zeros(1, np.int32))
        writer.add("x", np.zeros(1, np.int64))
        return {}

    for wrong in (words, two_kinds):
        with pytest.raises(ValueError, match=r"cannot be kept|after"):
            keep("things", "k", wrong)


def files_of_pairs(folder, hypothesis="A bird – singt"):
    folder.mkdir(exist_ok=True)
    lines = ["label\tpremise\thypothesis"]
    for i in range(30):
        label = ("entailment", "neutral", "contradiction")[i % 3]
        lines.append(f"{label}\tThe {'very ' * (i % 7)}old bird sings {i}\t{hypothesis} {i % 4}")
    lines.append("-\tleft\tout")
    (folder / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "val.tsv").write_text("\n".join(lines[:13]) + "\n", encoding="utf-8")
    views = {
        "words": {"name": "wordpiece", "length": 16, "vocab_size": 90},
        "pieces": {"name": "unigram", "length": 12, "vocab_size": 60},
    }
    files = {"folder": str(folder), "train": "train.tsv", "val": "val.tsv"}
    return Data(set={"name": "nli_files", "skip_labels": ("-",), **files}, views=views)


def forget():
    """As a new process starts."""
    for name in CACHES:
        getattr(pipeline, name).cache_clear()


def launch(data):
    opened = pipeline.open_data(data)
    rows = np.arange(12)
    return {s: opened.source(s).batch(rows) for s in ("train", "val")}, opened


def test_a_second_launch_neither_loads_nor_trains_nor_encodes(tmp_path, monkeypatch):
    data = files_of_pairs(tmp_path / "data")
    forget()
    first, opened = launch(data)
    plain = NliFiles(**{k: v for k, v in data.set.items() if k != "name"}).load("train")
    for view, encoder in opened.encoders.items():
        want = encoder.encode({k: v[:12] for k, v in plain.columns.items()})
        for name, array in first["train"]["views"][view].items():
            np.testing.assert_array_equal(array, want[name])

    forget()

    def dear(*args):
        raise AssertionError("done before")

    for owner, name in (
        (NliFiles, "load"),
        (text.TextEncoder, "ragged"),
        (wordpiece, "_train"),
        (unigram, "_train"),
    ):
        monkeypatch.setattr(owner, name, dear)
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = dataclasses.replace(data, set=data.set | {"folder": str(tmp_path / "moved")})
    second, again = launch(moved)
    for split in first:
        assert second[split]["views"].keys() == first[split]["views"].keys()
        for view, arrays in first[split]["views"].items():
            assert second[split]["views"][view].identity == arrays.identity
            for name, array in arrays.items():
                np.testing.assert_array_equal(second[split]["views"][view][name], array)
    for name, column in plain.columns.items():
        np.testing.assert_array_equal(again.train.columns[name][:], column)
        np.testing.assert_array_equal(again.train.columns[name][np.array([5, 0])], column[[5, 0]])
    assert again.train.left_out == plain.left_out == {"label '-'": 1}
    told, info = dataclasses.asdict(again.train.info), dataclasses.asdict(plain.info)
    assert str(tmp_path / "moved") in told.pop("source") and info.pop("source")
    assert told == info


def test_other_content_or_other_options_are_another_entry(tmp_path):
    data = files_of_pairs(tmp_path / "data")
    keys = []
    for changes in ({}, {"limit": 16}, {"content": "Other words"}):
        if "content" in changes:
            files_of_pairs(tmp_path / "data", changes.pop("content"))
        forget()
        keys.append(launch(dataclasses.replace(data, set=data.set | changes))[1].train.key)
    assert len(set(keys)) == 3 and all(keys)
    assert pipeline.open_data(Data()).train.key == ""  # made by a program: at every launch


def test_rows_of_a_split_that_were_left_out_are_not_taken_for_it(tmp_path):
    """Whoever makes a split of other rows may forget to give it another key."""
    forget()
    opened = pipeline.open_data(files_of_pairs(tmp_path / "data"))
    split = opened.train
    some = dataclasses.replace(split, columns={k: v[3:9] for k, v in split.columns.items()})
    whole, part = (encoded(s, opened.encoders["words"]) for s in (split, some))
    np.testing.assert_array_equal(part.lengths, whole.lengths[3:9])
    for name, array in part.rows(np.arange(6), 16).items():
        np.testing.assert_array_equal(array, whole.rows(np.arange(3, 9), 16)[name])


@pytest.mark.parametrize("view", [Wordpiece(length=10), Unigram(length=10, vocab_size=60)])
def test_ragged_rows_are_the_rows_of_one_shape_without_their_padding(view):
    info = Info(("no", "yes"), ("a",), ((True,), (True,)), "none", "made here")
    premise = ["a b c d e f g h i j k", "a", "b b", "c d e"]
    label, none = np.arange(4) % 2, np.zeros(4, int)
    split = make_split(info, label, none, premise=premise, hypothesis=["a b", "c"] * 2)
    encoder = view.fit(split)
    want, rows = encoder.encode(split.columns), encoded(split, encoder)
    assert isinstance(rows, Tokens)
    np.testing.assert_array_equal(rows.lengths, want["mask"].sum(1))
    order = np.array([2, 0, 2, 3])
    for length in (10, 12):
        got = rows.rows(order, length)
        assert got.keys() == want.keys()
        for name in want:
            assert got[name].dtype == np.int32 and got[name].shape == (4, length)
            np.testing.assert_array_equal(got[name][:, :10], want[name][order])
    largest = int(want["tokens"].max())
    assert rows.beyond("tokens", largest + 1) is None and rows.beyond("pixels", 0) is None
    row, number, most = rows.beyond("tokens", largest)
    assert number == most == largest and largest in want["tokens"][row]


def test_what_is_kept_can_be_read_by_anyone(cache):
    """No pickle: JSON, and bytes whose type the JSON tells."""
    keep("things", "k", make)
    [place] = cache.glob("things/*")
    about = json.loads((place / "about.json").read_text())
    assert about["arrays"]["rows"] == ["<i4", [5]]
    assert (place / "rows").read_bytes() == np.array([0, 1, 2, 0, 1], "<i4").tobytes()
    assert kept.read(place) is not None and kept.read(place.with_name("no")) is None
    assert os.environ["XDG_CACHE_HOME"] in str(place)
