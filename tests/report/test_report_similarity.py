"""Measures of similarity on the page: maps by role, two seeds of a teacher beside, reasons."""

import json

import numpy as np
import synthetic_study

from fairkd_jax.report import html, records, similarity

FIRST, SECOND = ["embed", "block00/out", "block01/out"], ["embed", "block00/out"]


def compared(seed: int, first=FIRST, second=SECOND, known: bool = True) -> dict:
    """What a stage "compare" leaves, with a distance beside CKA."""
    shape = len(first), len(second)

    def of(value: float) -> list:
        return np.full(shape, value if known else np.nan).tolist()

    def part(value: float) -> dict:
        told = {"value": value, "low": value - 0.1, "high": value + 0.1, "null": 1.3}
        return {
            k: [[None if np.isnan(x) else x for x in row] for row in of(v)] for k, v in told.items()
        }

    result = {"first_layers": first, "second_layers": second, "undefined": []}
    for kind, value in (("aligned", 0.8), ("conflicting", 0.6)):
        cka = value + 0.01 * seed
        result |= {kind: np.full(shape, cka).tolist(), f"null_{kind}": np.zeros(shape).tolist()}
        result[f"n_{kind}"] = 100
    reasons = [] if known else ["aligned: 2 examples, and at least 3 are needed"]
    result["measures"] = {
        "angular": {
            "same": 0.0,
            "undefined": reasons,
            "aligned": part(0.2),
            "conflicting": part(0.4),
        }
    }
    return result


def build(folder, seeds: int = 2, known: bool = True, twins: bool = True):
    study = synthetic_study.build(
        folder, seeds=seeds, worst={"erm": synthetic_study.WORST["erm"]}, compare=False
    )
    for run in study["runs"]:
        teacher = run["role"] == "teacher"
        if teacher and not twins:
            continue
        result = compared(run["seed"], FIRST, FIRST if teacher else SECOND, known)
        path = synthetic_study.stage(folder, run["run"], "compared")
        (path / "result.json").write_text(json.dumps(result))
        run |= {"inside": {"other_seed": path.name}} if teacher else {}
        run |= {} if teacher else {"comparisons": {"teacher": path.name}}
    synthetic_study.write(folder, study)
    synthetic_study.close(folder)
    return records.read(folder)


def drawn(finished):
    return [*similarity.pictures(finished, finished.comparisons())]


def test_measures_and_two_seeds_are_drawn_and_say_what_they_show(tmp_path):
    measure, cka, other = drawn(build(tmp_path / "studies" / "synthetic"))
    assert measure.name.startswith("Angular: ") and "a distance: 0 is the same" in measure.caption
    assert "baseline: aligned 0.200 (null 1.300, interval 0.200)" in measure.caption
    assert "teachers of two seeds: aligned 0.200" in measure.caption
    assert "2 seeds, on 100 aligned and 100 conflicting" in measure.caption
    assert "Undefined" not in measure.caption and "block01" in measure.svg()
    assert cka.name.startswith("Debiased linear CKA: teachers of two seeds, resnet/mini, erm")
    assert "layers with themselves 0.805" in cka.caption and "interval –" in cka.caption
    assert other.name.startswith("Angular: teachers of two seeds")
    page = html.write(tmp_path / "studies" / "synthetic").read_text()
    assert "teachers of two seeds" in page and "CKA of teacher and student" in page


def test_what_is_undefined_is_a_gap_with_its_reason(tmp_path):
    (measure,) = drawn(build(tmp_path / "studies" / "synthetic", 1, known=False, twins=False))
    assert "aligned – (null –, interval –)" in measure.caption
    assert "Undefined: aligned: 2 examples, and at least 3 are needed." in measure.caption
    assert measure.svg()


def test_a_study_without_them_has_no_such_pictures(tmp_path):
    folder = tmp_path / "studies" / "synthetic"
    synthetic_study.build(folder, seeds=1)
    assert not drawn(records.read(folder))
