"""Teachers' layers in students on the page: means, shares of the gap over seeds, reasons."""

import dataclasses
import json

import numpy as np
import pytest
import synthetic_study

from fairkd_jax.report import html, records, statistics, stitched

LAYERS = ["stage1/block0/out", "stage2/block0/out"]


def told(value: float | list) -> dict:
    value = np.array(value, float)
    shown = [value, value - 0.05, value + 0.05]
    return {
        k: np.where(np.isnan(v), None, v).tolist() for k, v in zip(("value", "low", "high"), shown)
    }


def result(seed: int, gap: float) -> dict:
    """The teacher's first layer closes a quarter of the gap, its second half of it."""
    student = 0.4 + 0.02 * seed
    nets = {"teacher": student + gap + 0.01 * seed, "student": student}
    found = {
        k: {"conflicting": told(v), "aligned": told(0.9), "worst_group": told(v)}
        for k, v in nets.items()
    } | {"patched": {}}
    gap = nets["teacher"] - nets["student"]
    for source in stitched.SOURCES:
        share = np.array([0.25, 0.5]) * (source == "teacher")
        closed = share if gap > 0 else np.full(2, np.nan)
        found["patched"][source] = {
            "conflicting": told(student + share * gap),
            "aligned": told([0.8, 0.7]),
            "worst_group": told([0.1, 0.2]),
            "restored": told(share * gap),
            "closed": told(closed),
        }
    counts = {"n_aligned": 100, "n_conflicting": 90, "n_fit_aligned": 50, "n_fit_conflicting": 8}
    found |= {"first_layers": LAYERS, "second_layers": LAYERS, "left_out": [], "undefined": ""}
    return found | counts | ({} if gap > 0 else {"undefined": "nothing to close here"})


def build(folder, seeds: int = 3, gap: float = 0.2):
    study = synthetic_study.build(
        folder, seeds=seeds, worst={"erm": synthetic_study.WORST["erm"]}, compare=False
    )
    for run in study["runs"]:
        run["inside"] = {}
        if run["role"] != "teacher":
            path = synthetic_study.stage(folder, run["run"], "stitch")
            (path / "result.json").write_text(json.dumps(result(run["seed"], gap)))
            run["inside"]["stitch/teacher"] = path.name
    synthetic_study.write(folder, study)
    synthetic_study.close(folder)
    return records.read(folder)


def drawn(finished):
    comparisons = finished.comparisons()
    return [p for p in stitched.pictures(finished, comparisons) if p is not None]


def test_the_share_that_closes_is_that_of_means_over_seeds(tmp_path):
    (picture,) = drawn(build(tmp_path / "studies" / "synthetic"))
    results = [result(seed, 0.2) for seed in range(3)]
    got = stitched.by_layer(results, "teacher", "closed")
    assert [one.value for one in got] == pytest.approx([0.25, 0.5])
    uneven = [result(0, 0.2), result(1, 0.2), result(2, 0.13)]
    uneven[2]["patched"]["teacher"]["restored"] = told([0.1, 0.1])
    first, _ = stitched.by_layer(uneven, "teacher", "closed")
    gaps = np.array([0.2, 0.21, 0.15])
    restored = np.array([0.05, 0.0525, 0.1])
    want = statistics.ratio(restored, gaps)
    assert dataclasses.astuple(first) == pytest.approx(dataclasses.astuple(want))
    told_gap = "of a gap of 0.21 [0.19, 0.23] the teacher's layer closes 0.25 at stage1/block0/out"
    assert f"distilled: {told_gap}" in picture.caption and "3 seeds" in picture.caption
    assert "50 aligned and 8 conflicting examples of another split" in picture.caption
    assert "answers to 100 aligned and 90 conflicting examples" in picture.caption
    assert "baseline, distilled" in picture.alt and "Left out" not in picture.caption
    assert len(picture.figure.axes) == 8 and picture.svg()
    page = html.write(tmp_path / "studies" / "synthetic").read_text()
    assert "The teacher&#39;s layers in the student" in page


def test_of_one_seed_the_intervals_are_over_examples(tmp_path):
    (picture,) = drawn(build(tmp_path / "studies" / "synthetic", seeds=1))
    one = stitched.by_layer([result(0, 0.2)], "teacher", "closed")
    assert [(e.low, e.high) for e in one] == [(0.2, 0.3), (0.45, 0.55)]
    assert "closes 0.25 [0.20, 0.30] at stage1/block0/out" in picture.caption


@pytest.mark.parametrize("seeds", [1, 3])
def test_where_there_is_no_gap_nothing_closes(tmp_path, seeds):
    (picture,) = drawn(build(tmp_path / "studies" / "synthetic", seeds=seeds, gap=-0.2))
    told = "nothing to close here" if seeds == 1 else stitched.MAY_BE_NONE
    gap = "−0.20" if seeds == 1 else "−0.19 ["
    assert f"teacher minus student is {gap}" in picture.caption and told in picture.caption
    found = stitched.by_layer([result(s, -0.2) for s in range(seeds)], "teacher", "closed")
    assert np.isnan([e.value for e in found]).all() and picture.svg()


def test_a_study_without_such_stages_has_no_such_picture(tmp_path):
    folder = tmp_path / "studies" / "synthetic"
    synthetic_study.build(folder, seeds=1, compare=False)
    assert not drawn(records.read(folder))
