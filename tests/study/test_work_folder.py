"""What a work folder promises: numbers of what was read, studies beside each other, all checked."""

import dataclasses
import json
import os
import pathlib
import shutil
import time

import pytest
import tiny_files
from disturbed import Zygote, records, zygote
from etils import epath

from fairkd_jax import config, files
from fairkd_jax.registry import UnknownName
from fairkd_jax.study import about, check, execute, plan, reads, stored
from fairkd_jax.train.checkpoint import Checkpoints, save_net

RUNGS = pathlib.Path(__file__).parent / "rungs_study.py"
CONFIG = pathlib.Path(tiny_files.__file__)
LABELS = ("entailment", "neutral", "contradiction")


def write_pairs(folder: pathlib.Path, split: str, rows: int, shift: int = 0) -> None:
    """Pairs of a few words, some of which overlap."""
    lines = ["premise\thypothesis\tlabel"]
    for i in range(rows):
        other = "a dog runs" if i % 2 else f"no cat sleeps {i % 5}"
        lines.append(f"a dog runs in park {i % 7}\t{other}\t{LABELS[(i + shift) % 3]}")
    folder.mkdir(exist_ok=True)
    (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def data(tmp_path) -> pathlib.Path:
    """A folder of pairs."""
    write_pairs(tmp_path / "data", "train", 48)
    write_pairs(tmp_path / "data", "test", 24)
    return tmp_path / "data"


def study(data, **changes) -> config.Study:
    return dataclasses.replace(
        config.parse(config.Study, tiny_files.get_config(str(data))), **changes
    )


def identities(data, kind: str) -> set[str]:
    return {s.identity for s in plan.stages(plan.runs(study(data))) if s.kind == kind}


def test_no_folder_of_this_disk_is_taken_for_a_bucket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    far, shortened = epath.Path("s3://bucket/w"), pathlib.Path("gs://bucket/w")
    for write in (Checkpoints, lambda folder: save_net(folder, {}), folder_of_a_study):
        with pytest.raises(ValueError, match=f"no work folder can be {far}: Orbax"):
            write(far)
        with pytest.raises(ValueError, match="gs:/bucket/w is no folder here"):
            write(shortened)
    assert not any(tmp_path.iterdir())


def folder_of_a_study(folder):
    execute.run(config.Study(), folder)


# A. A stage is what it read, not where it lay


def test_an_edited_test_split_changes_what_is_scored_and_nothing_that_is_trained(data):
    trained, scored = (identities(data, kind) for kind in ("train", "evaluate"))
    write_pairs(data, "test", 24, shift=1)
    assert identities(data, "train") == trained
    assert not identities(data, "evaluate") & scored


def test_an_edited_training_split_changes_everything(data):
    before = {kind: identities(data, kind) for kind in ("train", "table", "evaluate")}
    write_pairs(data, "train", 48, shift=1)
    for kind, old in before.items():
        assert not identities(data, kind) & old


def test_where_files_lie_changes_nothing(data, tmp_path, monkeypatch):
    before = identities(data, "train") | identities(data, "evaluate")
    moved = data.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    for place in (moved, "moved"):
        assert identities(place, "train") | identities(place, "evaluate") == before
    other = tmp_path / "elsewhere"
    write_pairs(other, "train", 9)
    monkeypatch.chdir(other)
    with pytest.raises(FileNotFoundError, match="moved"):
        identities("moved", "train")


def test_what_is_kept_in_memory_is_never_that_of_an_older_file(data):
    from fairkd_jax.data import pipeline

    opened = pipeline.open_data(study(data).experiment.data)
    first = opened.source("test").split.columns["label"]
    write_pairs(data, "test", 24, shift=1)
    again = pipeline.open_data(study(data).experiment.data).source("test").split.columns["label"]
    assert (again == (first + 1) % 3).all()


def test_digests_follow_the_content_even_where_size_and_time_are_the_same(tmp_path):
    path = tmp_path / "f"
    path.write_text("one")
    old = path.stat().st_mtime - 100
    os.utime(path, (old, old))
    first = files.digest(path)
    path.write_text("two")
    os.utime(path, (old, old))
    assert files.digest(path) != first


def test_a_changed_or_vanished_file_is_named_by_the_watch(data):
    watch = reads.watch(plan.stages(plan.runs(study(data))))
    watch()
    (data / "test.tsv").touch()
    watch()  # as it was
    write_pairs(data, "test", 24, shift=1)
    with pytest.raises(reads.Changed, match=r"test\.tsv changed while the study runs"):
        watch()
    (data / "test.tsv").unlink()
    with pytest.raises(reads.Changed, match=r"test\.tsv"):
        watch()


@pytest.mark.parametrize(
    "flag, axes, message",
    [
        ({"experiment.debias.name": "groupdro"}, None, r"experiment\.debias\.name.*'debias'"),
        ({"experiment.debias": {"name": "jtt"}}, None, "no effect"),
        ({"experiment.mix.scope": "task"}, None, None),
        ({}, {"debias": ({"name": "erm"}, {"name": "erm", "label": "erm"})}, "'erm', 'erm'"),
        ({}, {"debias": ({"name": "jtt", "factor": 2.0}, {"name": "jtt"})}, "called.*jtt"),
        ({}, {"debias": ()}, r"called \[\]"),
        (
            {},
            {
                "size": ({"label": "a", "student.model.width": 16}, {"label": "b"}),
                "student.model": ({"name": "bert", "preset": "tiny"},),
            },
            "takes away",
        ),
        ({"experiment.student.model": {"name": "bert", "preset": "tiny"}},
         {"student.model.width": (16, 32)}, None),
        ({"experiment.student.model": {"name": "bert", "width": 8}},
         {"student.model.width": (16, 32)}, "no effect"),
    ],
)  # fmt: skip
def test_what_an_axis_takes_away_is_refused_before_compute(data, flag, axes, message):
    asked = study(data, **({"axes": axes} if axes else {}))
    if message is None:
        check.check(asked, flag)
    else:
        with pytest.raises(ValueError, match=message):
            check.check(asked, flag)


def test_what_the_report_would_refuse_is_refused_before_compute(data):
    with pytest.raises(UnknownName, match=r"acuracy.*Did you mean.*worst_group_accuracy"):
        check.check(study(data, headline=("in_domain/test/worst_group_acuracy",)))
    with pytest.raises(ValueError, match="headline"):
        check.check(study(data, headline=()))
    with pytest.raises(ValueError, match=r"names a folder"):
        check.check(study(data, name="a/b"))
    compare = config.Compare(first="block07/out", second="block00/out")
    with pytest.raises(UnknownName, match="block07/out"):
        check.check(study(data, experiment=config.update(study(data).experiment, {
            "compare": compare})))  # fmt: skip


# On a whole study


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    with zygote(tmp_path_factory.mktemp("zygote")) as made:
        yield made


@pytest.fixture(scope="module")
def ran(launch: Zygote, tmp_path_factory) -> pathlib.Path:
    """A work folder W and its data beside it, after the study ran."""
    folder = tmp_path_factory.mktemp("ran")
    write_pairs(folder / "data", "train", 48)
    write_pairs(folder / "data", "test", 24)
    run = start(launch, folder)
    assert run.wait(300) == 0, run.said
    return folder


def start(launch: Zygote, folder: pathlib.Path, *flags: str):
    return launch.start("study", folder / "W", f"--config={CONFIG}:{folder / 'data'}", *flags)


def copied(ran: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(ran, tmp_path / "copy"))


def closed(folder: pathlib.Path) -> dict[str, int]:
    return {p.parent.name: p.stat().st_mtime_ns for p in (folder / "W").glob("stages/*/done")}


def test_moved_with_its_data_a_finished_folder_trains_nothing(launch, ran, tmp_path):
    folder, begun = copied(ran, tmp_path), time.monotonic()
    before = closed(folder)
    run = start(launch, folder)
    assert run.wait() == 0, run.said
    assert closed(folder) == before and time.monotonic() - begun < 20
    assert records(folder / "W", "files").equals(records(ran / "W", "files"))
    about = json.loads(next((folder / "W").glob("stages/*/config.json")).read_text())
    assert str(ran) not in json.dumps(about)


def test_labels_edited_after_a_study_are_scored_when_it_is_launched_again(launch, ran, tmp_path):
    folder = copied(ran, tmp_path)
    assert start(launch, folder).wait() == 0  # the data lie here now
    before = closed(folder)
    write_pairs(folder / "data", "test", 24, shift=1)
    run = start(launch, folder)
    assert run.wait() == 0, run.said
    after = closed(folder)
    assert before.items() <= after.items() and len(after) > len(before)
    new, old = records(folder / "W", "files"), records(ran / "W", "files")
    assert not new["value"].equals(old["value"])


def test_other_files_under_the_name_of_a_study_are_refused(launch, ran, tmp_path):
    folder = copied(ran, tmp_path)
    write_pairs(folder / "data", "test", 24, shift=1)  # those of the study are where they were
    run = start(launch, folder)
    assert run.wait() == 1 and "reads other files with other content" in run.said


def test_a_file_that_changes_while_a_study_runs_stops_it_by_name(launch, ran, tmp_path):
    write_pairs(tmp_path / "data", "train", 48)
    write_pairs(tmp_path / "data", "test", 24)
    run = start(launch, tmp_path)
    while not list((tmp_path / "W").glob("stages/*/metrics.jsonl")):
        assert run.poll() is None, run.said
        time.sleep(0.002)
    write_pairs(tmp_path / "data", "test", 24, shift=2)
    assert run.wait() == 1
    assert f"{tmp_path / 'data' / 'test.tsv'} changed while the study runs" in run.said
    run = start(launch, tmp_path)
    assert run.wait() == 0, run.said


def test_smoke_and_other_studies_leave_a_finished_one_as_it_is(launch, ran, tmp_path):
    folder = copied(ran, tmp_path)
    own = folder / "W" / "studies" / "files"
    before = {p: p.read_bytes() for p in sorted(own.rglob("*")) if p.is_file()}
    for flags in (["--smoke"], ["--config.name=other"]):
        run = start(launch, folder, *flags)
        assert run.wait() == 0, run.said
    assert {p: p.read_bytes() for p in sorted(own.rglob("*")) if p.is_file()} == before
    names = sorted(p.name for p in own.parent.iterdir())
    assert names == ["files", "files-smoke", "other"]
    assert records(folder / "W", "other")["value"].equals(records(folder / "W", "files")["value"])
    run = launch.start("report", folder / "W")
    assert run.wait() == 0 and run.said.count("report: ") == 3, run.said

    run = start(launch, folder, "--config.experiment.student.train.steps=3")
    assert run.wait() == 1 and "give this study another name" in run.said
    run = start(launch, folder, "--config.seeds=2")  # it grows
    assert run.wait() == 0, run.said
    run = start(launch, folder)
    assert run.wait() == 1 and "would be lost" in run.said


def test_a_flag_beside_an_axis_is_refused_by_the_launcher(launch, ran, tmp_path):
    run = start(launch, copied(ran, tmp_path), "--config.experiment.debias.name=groupdro")
    assert run.wait() == 1 and "has no effect, since the axis 'debias'" in run.said


def test_verify_reads_everything_and_names_what_is_wrong(launch, ran, tmp_path):
    folder = copied(ran, tmp_path)
    run = launch.start("study", folder / "W", "--verify")
    assert run.wait() == 0 and "0 damaged" in run.said, run.said
    path = next((folder / "W").glob("stages/*/result.json"))
    content, stat = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    run = launch.start("study", folder / "W", "--verify")
    assert run.wait() == 1 and "1 damaged" in run.said
    assert f"{path.parent}: result.json holds something else" in run.said


@pytest.mark.parametrize("content", ["", '{"study": "fil'])
def test_a_damaged_study_json_is_made_anew_and_named_by_the_report(launch, ran, tmp_path, content):
    folder = copied(ran, tmp_path)
    path = folder / "W" / "studies" / "files" / "study.json"
    path.write_text(content)
    run = launch.start("report", folder / "W")
    assert run.wait() == 1 and f"{path} is damaged" in run.said
    run = start(launch, folder)
    assert run.wait() == 0, run.said
    assert records(folder / "W", "files").equals(records(ran / "W", "files"))


def test_an_empty_done_is_named_and_its_stage_done_again(launch, ran, tmp_path):
    folder = copied(ran, tmp_path)
    path = next((folder / "W").glob("stages/*/done"))
    path.write_text("")
    run = start(launch, folder)
    assert run.wait() == 0 and f"{path} is damaged" in run.said, run.said
    assert records(folder / "W", "files").equals(records(ran / "W", "files"))


def test_a_stage_is_not_read_after_its_data_changed(launch, ran, tmp_path):
    folder = copied(ran, tmp_path)
    assert start(launch, folder).wait() == 0  # the data lie here now
    about = json.loads((folder / "W/studies/files/study.json").read_text())
    first, second = (r["stage"] for r in about["runs"][:2])
    compare = [
        f"--first={first}",
        f"--second={second}",
        "--first_taps=embed",
        "--second_taps=embed",
    ]
    run = launch.start("compare", folder / "W", *compare)
    assert run.wait() == 0, run.said
    write_pairs(folder / "data", "train", 48, shift=1)
    compare[-1] = "--second_taps=features"
    run = launch.start("compare", folder / "W", *compare)
    assert run.wait() == 1 and "train.tsv" in run.said and "changed since" in run.said


def test_state_of_a_stage(ran, tmp_path):
    folder = copied(ran, tmp_path)
    one = next(p for p in (folder / "W" / "stages").iterdir())
    assert stored.faults(one) == []
    (one / "done").unlink()
    assert stored.faults(one) is None and stored.unusable(one) == ["it is not finished"]
    with pytest.raises(files.Damaged, match="does this stage again"):
        stored.require(one, "a net")
    assert about.folder_of(folder / "W", "x") == folder / "W" / "studies" / "x"


def test_a_chain_of_rungs_runs_from_its_config_to_its_report(launch, tmp_path):
    run = launch.start("study", tmp_path, f"--config={RUNGS}", "--smoke")
    assert run.wait(300) == 0, run.said
    table = records(tmp_path, "rungs-smoke")
    places = table[["role", "rung", "debias", "model"]].drop_duplicates().dropna()
    assert places.values.tolist() == [
        ["rung", 1, "jtt", "resnet/tiny"],
        ["rung", 2, "erm", "resnet/tiny"],
    ]
    worst = table[table["metric"] == "worst_group_accuracy"].groupby("role")["value"].count()
    assert worst.to_dict() == {"teacher": 2, "baseline": 2, "rung": 2, "distilled": 2}
    page = (tmp_path / "studies" / "rungs-smoke" / "report" / "index.html").read_text()
    assert page.count("<h3>Along the chain</h3>") == 1
    dry = launch.start("study", tmp_path, f"--config={RUNGS}", "--smoke", "--dry_run")
    assert dry.wait() == 0 and dry.last.endswith(" 0 partial, 0 missing, 0 damaged"), dry.said
