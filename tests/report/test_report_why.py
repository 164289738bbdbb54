"""Where nets look and what layers tell, on the page: means by head, lines by depth, reasons."""

import json

import numpy as np
import pytest
import synthetic_study

from fairkd_jax.report import html, records, why

LAYERS = ["block00/attn_probs", "block01/attn_probs"]


def attention(seed: int, known: bool = True) -> dict:
    """Two layers; the teacher's heads 0 and 1 are matched to 1 and 0, in one seed the other way."""
    match = [[0, 1], [1, 0] if seed else [0, 1]]
    js = np.array([[0.3, 0.1], [0.2, 0.4]]) + 0.01 * seed

    def of_kind(shift: float) -> dict:
        values = [(js + shift).tolist()] * 2
        mean = [0.05 + shift] * 2
        one = {"js": values, "mean_js": mean, "null_matched": [0.5, 0.5]}
        return one | {"matched": {"value": [0.2 + shift] * 2}}

    conflicting = of_kind(0.1)
    if not known:
        nothing = [[[None] * 2] * 2] * 2
        conflicting = {"js": nothing, "mean_js": [None] * 2, "null_matched": [None] * 2}
        conflicting["matched"] = {"value": [None] * 2}
    counts = {"n_aligned": 100, "n_conflicting": 100 if known else 0}
    told = {"measure": "js", "match": [match] * 2, "left_out": [] if known else ["dec: other"]}
    told |= {"first_layers": LAYERS, "second_layers": LAYERS, "aligned": of_kind(0.0)}
    return told | counts | {"conflicting": conflicting}


def probe(layers: int, known: bool = True) -> dict:
    value = np.linspace(0.6, 0.9, layers)
    told = {"value": value.tolist(), "low": (value - 0.1).tolist(), "high": (value + 0.1).tolist()}
    nothing = dict.fromkeys(told, [None] * layers)
    one = {"chance": 0.5, "by_other": 0.6, "undefined": "", "accuracy": told, "control": told}
    other = one | {"accuracy": nothing, "control": nothing, "undefined": "2 examples"}
    counts = {"n_aligned": 100, "n_conflicting": 90, "folds": 5, "layers": ["x"] * layers}
    return counts | {"label": one, "attribute": one if known else other}


def build(folder, seeds: int = 3, known: bool = True):
    study = synthetic_study.build(
        folder, seeds=seeds, worst={"erm": synthetic_study.WORST["erm"]}, compare=False
    )
    for run in study["runs"]:
        results = {"probe": probe(3 if run["role"] == "teacher" else 2, known)}
        if run["role"] != "teacher":
            results["attention/teacher"] = attention(run["seed"], known)
        run["inside"] = {}
        for name, result in results.items():
            path = synthetic_study.stage(folder, run["run"], name)
            (path / "result.json").write_text(json.dumps(result))
            run["inside"][name] = path.name
    synthetic_study.write(folder, study)
    synthetic_study.close(folder)
    return records.read(folder)


def drawn(finished):
    comparisons = finished.comparisons()
    return [p for p in why.pictures(finished, comparisons) if p is not None]


def test_heads_are_in_the_order_of_how_much_they_differ(tmp_path):
    found = why._by_head([attention(0), attention(1)])
    # matched: 0.3 and 0.4 in the first seed, 0.11 and 0.21 in the second; averaged maps 0.05
    np.testing.assert_allclose(found["aligned"], [[0.305, 0.205, 0.05]] * 2)
    np.testing.assert_allclose(found["conflicting"] - found["aligned"], 0.1)


def test_both_are_drawn_and_say_what_they_show(tmp_path):
    looks, tells = drawn(build(tmp_path / "studies" / "synthetic"))
    assert "baseline, distilled" in looks.alt and "3 seeds" in looks.caption
    assert "distilled: aligned 0.200 (null 0.500), conflicting 0.300 (null 0.500)" in looks.caption
    assert "block00 · block00" in looks.svg() and "Left out" not in looks.caption
    assert "teacher, baseline, distilled" in tells.alt and "5 folds" in tells.caption
    assert "100 aligned and 90 conflicting" in tells.caption and "Undefined" not in tells.caption
    page = html.write(tmp_path / "studies" / "synthetic").read_text()
    assert "Where teacher and student look" in page and "What layers tell" in page


@pytest.mark.parametrize("seeds", [1, 2])
def test_what_is_undefined_is_a_gap_with_its_reason(tmp_path, seeds):
    looks, tells = drawn(build(tmp_path / "studies" / "synthetic", seeds, known=False))
    assert "conflicting – (null –)" in looks.caption and "Left out: dec: other." in looks.caption
    assert "Undefined: attribute: 2 examples." in tells.caption
    assert looks.svg() and tells.svg()
    for ax in tells.figure.axes:
        assert len(ax.lines) == 8


def test_a_study_without_them_has_no_such_pictures(tmp_path):
    folder = tmp_path / "studies" / "synthetic"
    synthetic_study.build(folder, seeds=1, compare=False)
    assert not drawn(records.read(folder))
