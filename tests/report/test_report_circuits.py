"""Circuits on the page: graphs that are readable at 12 layers, a table that never shows overlap
without faithfulness, reasons.
"""

import json

import numpy as np
import pytest
import synthetic_study

from fairkd_jax.circuits.graph import Edges
from fairkd_jax.models.t5 import T5
from fairkd_jax.models.vit import ViT
from fairkd_jax.report import circuits, html, records

INTERVAL = {"value": 0.9, "low": 0.8, "high": 0.95}


def net(architecture, known: bool = True, nodes: bool = False) -> dict:
    names = Edges(tuple(architecture.wiring())).names
    if nodes:
        names = [f"stage{s}/block{b}/branch_out" for s in (1, 2) for b in (1, 2)]
    scores = np.random.default_rng(0).normal(size=len(names))
    kept = np.argsort(-np.abs(scores))[: max(1, len(names) // 50)]
    faithful = INTERVAL if known else dict.fromkeys(INTERVAL)
    one = {"size": len(kept), "kept": kept.tolist(), "faithfulness": faithful}
    one |= {"random": {"value": 0.1 if known else None, "low": 0.0, "high": 0.2}}
    told = {"sites": names, "undefined": "" if known else "there is no difference"}
    told |= {"scores": {"eap_ig": {"value": scores.tolist()}}}
    return told | {"circuits": {"eap_ig": {"top 0.02": one}}}


def result(seed: int, known: bool, teacher, student, nodes: bool = False) -> dict:
    cross = {"faithfulness": INTERVAL | {"value": 0.4 + 0.01 * seed}, "random": {"value": 0.05}}
    found = {"overlap": INTERVAL | {"value": 0.3, "random": 0.02}, "mapped": 0.75, "cross": cross}
    methods = {"eap_ig": {"rank": INTERVAL, "top 0.02": found}} if known else {}
    told = {"level": "nodes" if nodes else "edges", "n": 64, "why": {}}
    if nodes:
        told["why"] = {"second": "each sum passes a ReLU"}
    told |= {"first": net(teacher, known, nodes), "second": net(student, known, nodes)}
    undefined = "" if known else "the nets share no part"
    return told | {"shift": {"undefined": undefined, "methods": methods}}


def build(folder, *args, seeds: int = 2, **options):
    study = synthetic_study.build(
        folder, seeds=seeds, worst={"erm": synthetic_study.WORST["erm"]}, compare=False
    )
    for run in study["runs"]:
        run["inside"] = {}
        if run["role"] != "teacher":
            path = synthetic_study.stage(folder, run["run"], "circuit")
            told = result(run["seed"], *args, **options)
            (path / "result.json").write_text(json.dumps(told))
            run["inside"]["circuit/teacher"] = path.name
    synthetic_study.write(folder, study)
    synthetic_study.close(folder)
    return records.read(folder)


def test_twelve_layers_are_drawn_and_the_table_has_all_beside_overlap(tmp_path):
    folder = tmp_path / "studies" / "synthetic"
    finished = build(folder, True, ViT(depth=12, heads=12), ViT(depth=6, heads=6))
    (picture,) = circuits.pictures(finished, finished.comparisons())
    assert "teacher, baseline, distilled" in picture.alt and "64 pairs" in picture.caption
    assert "faithfulness 0.90 (random 0.10)" in picture.caption
    assert "150 of teacher's edges" in picture.caption  # the others have fewer
    labels = [t.get_text() for t in picture.figure.axes[0].get_yticklabels()]
    assert labels[0] == "embed" and labels[-1] == "logits" and "block11" in labels
    places = circuits._places(net(ViT(depth=12, heads=12))["sites"])
    assert len(places) == len({*places.values()}) == 12 * 13 + 2  # no two in one place
    (table,) = circuits.tables(finished, finished.comparisons())
    rows = {row["net"]: row for row in table["rows"]}
    assert [*rows] == ["teacher", "baseline", "distilled"]
    assert rows["distilled"]["cross"].value == pytest.approx(0.405)
    assert rows["distilled"]["overlap"].value == pytest.approx(0.3)
    assert rows["distilled"]["faithfulness"].n == 2
    assert np.isnan(rows["teacher"]["overlap"].value)
    page = html.write(folder).read_text()
    assert "<h2>Circuits</h2>" in page and page.count("0.405") >= 1


def test_two_stacks_stand_side_by_side():
    arch = T5(depth=3, decoder_depth=2, heads=4)
    places = circuits._places(Edges(tuple(arch.wiring())).names)
    assert len(places) == len({*places.values()}) == 3 * 5 + 2 * 9 + 3
    left = max(x for (layer, _, _), (x, _) in places.items() if layer.startswith("enc/"))
    assert left < min(x for (layer, _, _), (x, _) in places.items() if layer.startswith("dec/"))
    assert places["", "logits_in", 0][1] > max(
        y for (layer, _, _), (_, y) in places.items() if layer
    )


def test_what_is_undefined_is_a_gap_with_its_reason(tmp_path):
    folder = tmp_path / "studies" / "synthetic"
    small = ViT(depth=2, heads=2)
    finished = build(folder, False, small, small, seeds=1, nodes=True)
    (picture,) = circuits.pictures(finished, finished.comparisons())
    assert "faithfulness – (random –), there is no difference" in picture.caption
    assert "No edges of the student's net, for each sum passes a ReLU." in picture.caption
    (table,) = circuits.tables(finished, finished.comparisons())
    assert table["reasons"] == ["the nets share no part", "there is no difference"]
    assert "Undefined: the nets share no part." in html.write(folder).read_text()


def test_a_study_without_them_has_none(tmp_path):
    folder = tmp_path / "studies" / "synthetic"
    synthetic_study.build(folder, seeds=1, compare=False)
    finished = records.read(folder)
    assert not any(circuits.pictures(finished, finished.comparisons()))
    assert not circuits.tables(finished, finished.comparisons())
    assert "<h2>Circuits</h2>" not in html.write(folder).read_text()
